//! Events of a stream (the WHATWG's server-sent events), as far as MCP uses them.

use std::time::Duration;

/// One event.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `message`, where it names none.
    pub kind: String,
    /// Empty where an event only says where in the stream it is, or how long to wait.
    pub data: String,
    /// Its place in the stream, for reading on after it.
    pub id: Option<String>,
    /// How long to wait before a stream that ended is taken up again.
    pub retry: Option<Duration>,
}

/// What has come of a stream and is no whole event yet.
#[derive(Default)]
pub struct Parts {
    /// Whatever comes is put at its end.
    pub buffer: Vec<u8>,
    /// Up to here, no event ends: a long one that comes in many pieces is looked through once.
    searched: usize,
}

impl Parts {
    /// The first event that is whole and says anything.
    #[expect(clippy::should_implement_trait, reason = "more may come after there was none")]
    pub fn next(&mut self) -> Option<Event> {
        while let Some(end) = end_of_event(&self.buffer[self.searched..]).map(|end| self.searched + end) {
            let event: Vec<u8> = self.buffer.drain(..end).collect();
            self.searched = 0;
            if let Some(event) = parse_event(&String::from_utf8_lossy(&event)) {
                return Some(event);
            }
        }
        // The longest end but for its last byte may be there already.
        self.searched = self.buffer.len().saturating_sub(3);
        None
    }
}

/// The place after the empty line that ends an event.
fn end_of_event(buffer: &[u8]) -> Option<usize> {
    let is_empty_line = |place: &usize| buffer[*place..].starts_with(b"\n\n") || buffer[*place..].starts_with(b"\r\n\r\n");
    let place = (0..buffer.len()).find(is_empty_line)?;
    Some(place + if buffer[place] == b'\n' { 2 } else { 4 })
}

fn parse_event(text: &str) -> Option<Event> {
    let (mut event, mut data) = (Event { kind: "message".into(), ..Event::default() }, Vec::new());
    for line in text.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut event.kind),
            "data" => data.push(value),
            "id" if !value.contains('\0') => event.id = Some(value.to_owned()),
            "retry" => event.retry = value.parse().ok().map(Duration::from_millis),
            _ => {}
        }
    }
    event.data = data.join("\n");
    (!event.data.is_empty() || event.id.is_some() || event.retry.is_some()).then_some(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_parted_by_empty_lines() {
        assert_eq!(end_of_event(b"data: 1\n\nrest"), Some(9));
        assert_eq!(end_of_event(b"data: 1\r\n\r\nx\n\n"), Some(11));
        assert_eq!(end_of_event(b"data: 1\n"), None);
        let event = |kind: &str, data: &str| Event { kind: kind.into(), data: data.into(), ..Event::default() };
        assert_eq!(parse_event("event: endpoint\ndata: /m?s=1\n\n"), Some(event("endpoint", "/m?s=1")));
        let placed = Event { id: Some("7".into()), ..event("message", "a\nb") };
        assert_eq!(parse_event("data:a\ndata: b\r\n: words\nid: 7\n\n"), Some(placed));
        let pause = Event { retry: Some(Duration::from_millis(250)), ..event("message", "") };
        assert_eq!(parse_event("retry: 250\ndata:\n\n"), Some(pause));
        assert_eq!(parse_event("retry: soon\n\n"), None);
        assert_eq!(parse_event(": only words\n\n"), None);
    }

    #[test]
    fn an_event_is_found_however_its_bytes_are_cut() {
        for text in ["data: 1\n\ndata: 2\n\n", "data: 1\r\n\r\n: words\n\ndata: 2\r\n\r\n"] {
            let mut parts = Parts::default();
            let mut found = Vec::new();
            for byte in text.bytes() {
                parts.buffer.push(byte);
                found.extend(parts.next().map(|event| event.data));
            }
            assert_eq!(found, ["1", "2"], "{text:?}");
            assert!(parts.buffer.is_empty());
        }
    }

    proptest::proptest! {
        #[test]
        fn no_stream_makes_the_reader_panic(text in "\\PC*") {
            parse_event(&text);
            end_of_event(text.as_bytes());
        }
    }
}
