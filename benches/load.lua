-- For wrk: asks for the paths of a file, one a line, over and over, and prints one line that figures.sh
-- can read. Called as `wrk … -s load.lua http://ADDRESS -- FILE [PAUSE]`: each connection waits PAUSE
-- milliseconds before each request.

local requests = {}
local at = 0
local pause = 0

function init(arguments)
  for path in io.lines(arguments[1]) do
    requests[#requests + 1] = wrk.format("GET", path)
  end
  pause = tonumber(arguments[2] or 0)
end

function delay()
  return pause
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format("requests=%d p50_ms=%.2f p99_ms=%.2f failed=%d\n",
    summary.requests, latency:percentile(50) / 1000, latency:percentile(99) / 1000, failed))
end
