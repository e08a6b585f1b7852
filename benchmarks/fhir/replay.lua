-- Replays the requests of a file (WETREAD_BENCH_REQUESTS): a line each, METHOD, TAB, path, TAB, body or nothing.
-- Ends with one JSON line of what was measured. Answers of 400 and above are counted.
local requests, count, at = {}, 0, 0

function init(arguments)
  local headers = { ["Content-Type"] = "application/fhir+json", ["Accept"] = "application/fhir+json" }
  local token = os.getenv("WETREAD_BENCH_TOKEN")
  if token then headers["Authorization"] = "Bearer " .. token end
  for line in io.lines(os.getenv("WETREAD_BENCH_REQUESTS")) do
    local method, path, body = line:match("^(%u+)\t([^\t]+)\t?(.*)$")
    count = count + 1
    requests[count] = wrk.format(method, path, headers, body ~= "" and body or nil)
  end
  at = tonumber(os.getenv("WETREAD_BENCH_START") or 0) % count
end

function request()
  at = at % count + 1
  return requests[at]
end


function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '\nMEASURED {"requests": %d, "duration_s": %.6f, "p50_ms": %.3f, "p95_ms": %.3f, "failed": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(95) / 1e3,
    errors.status + errors.connect + errors.read + errors.write + errors.timeout))
end
