-- Post the same file in a form repeatedly: wrk … --script bench.lua URL -- BYTES
-- Print "requests refused 99th-percentile-µs duration-µs" as the last line.

function init(arguments)
  local boundary = "------------------------aiorelaybench"
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "multipart/form-data; boundary=" .. boundary
  wrk.body = "--" .. boundary .. '\r\nContent-Disposition: form-data; name="somefile"; filename="small"\r\n'
    .. "Content-Type: application/octet-stream\r\n\r\n" .. string.rep("x", tonumber(arguments[1]))
    .. "\r\n--" .. boundary .. "--\r\n"
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  print(string.format("%d %d %d %d", summary.requests, failed, latency:percentile(99), summary.duration))
end
