//! A bar for each file that comes in, below the one of the job.

use std::collections::HashMap;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::cli::{CliError, client::Fabric, jobs, output};

/// Files that are through in less than this many looks have no bar.
const PATIENCE: u32 = 2;

/// Waits for a job that brings packages in.
pub(super) async fn wait(fabric: &Fabric, id: &str, is_quiet: bool) -> Result<Value, CliError> {
    let bar = jobs::bar(is_quiet);
    if bar.is_hidden() {
        return jobs::wait_for(fabric, id, is_quiet).await;
    }
    let all = MultiProgress::new();
    let (bar, mut bars) = (all.add(bar), Bars { all, files: HashMap::new() });
    let job = jobs::wait_beside(fabric, id, bar, async |job| {
        let ended = !matches!(job["status"].as_str(), Some("pending" | "processing"));
        let coming = if ended { Value::Null } else { fabric.get("/api/mcp/cache/downloads").await? };
        bars.show(&coming["downloads"]);
        Ok(())
    });
    jobs::complete(job.await?)
}

struct Bars {
    all: MultiProgress,
    /// By name: how often it was seen, and its bar.
    files: HashMap<String, (u32, Option<ProgressBar>)>,
}

impl Bars {
    fn show(&mut self, downloads: &Value) {
        let mut there: HashMap<String, Value> = HashMap::new();
        for file in downloads.as_array().into_iter().flatten() {
            there.insert(format!("{} {}", output::text(file, "identifier"), output::text(file, "version")), file.clone());
        }
        self.files.retain(|name, (_, bar)| {
            let stays = there.contains_key(name);
            if let Some(bar) = bar.as_ref().filter(|_| !stays) {
                bar.finish_and_clear();
            }
            stays
        });
        for (name, file) in there {
            let (seen, bar) = self.files.entry(name.clone()).or_default();
            *seen += 1;
            if *seen < PATIENCE {
                continue;
            }
            let bar = bar.get_or_insert_with(|| self.all.add(of(&name, file["bytes_total"].as_u64())));
            bar.set_position(file["bytes_done"].as_u64().unwrap_or(0));
        }
    }
}

fn of(name: &str, total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (ProgressBar::new(total), "  {msg} [{bar:20}] {bytes}/{total_bytes}, {bytes_per_sec}"),
        None => (ProgressBar::no_length(), "  {msg} {spinner} {bytes}, {bytes_per_sec}"),
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.with_style(style).with_message(name.to_owned())
}
