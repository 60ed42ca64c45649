-- Spreads wrk's threads over the addresses given, and prints what was measured as JSON.
-- Arguments: addresses host:port[,host:port...], one for each thread in turn; then, optionally, a file of paths to ask for in turn.
-- BENCH_PAUSE: milliseconds that a connection waits before each request, on average.
local pause = tonumber(os.getenv("BENCH_PAUSE"))
if pause then
  function delay() return math.random(0, 2 * pause) end
end

local addresses = {}
local turn = 0

function setup(thread)
  if #addresses == 0 then
    for host, port in string.gmatch(os.getenv("BENCH_ADDRESSES"), "([^:,]+):(%d+)") do
      table.insert(addresses, wrk.lookup(host, port)[1])
    end
  end
  turn = turn + 1
  thread.addr = addresses[(turn - 1) % #addresses + 1]
end

local requests = {}
local asked = 0

function init(args)
  local paths = os.getenv("BENCH_PATHS")
  if paths then
    for path in io.lines(paths) do table.insert(requests, wrk.format("GET", path)) end
    asked = math.random(#requests)
    request = function()
      asked = asked % #requests + 1
      return requests[asked]
    end
  end
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format('\n{"requests": %d, "seconds": %.6f, "p95": %.6f, "refused": %d, "broken": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(95) / 1e6, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout))
end
