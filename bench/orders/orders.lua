-- For wrk: POST /order with random orders, or GET the path in the first argument; prints one line of JSON at the end.
-- Bodies are made before the run to keep wrk's share of the CPU small.

local flowers = { "romantic_roses", "spring_tulips", "blossom_mix" }
local made, next_one = {}, 0

function init(args)
  if args[1] then
    wrk.path = args[1]
    return
  end
  math.randomseed(7)
  for n = 1, 1024 do
    local body = string.format('{"name": "Customer %d", "address": "%d Flower Street, Toronto", "flower": "%s"}',
      math.random(1, 1e6), math.random(1, 999), flowers[math.random(#flowers)])
    made[n] = wrk.format("POST", "/order", { ["Content-Type"] = "application/json" }, body)
  end
end

function request()
  if #made == 0 then return wrk.format() end
  next_one = next_one % #made + 1
  return made[next_one]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format('\n{"requests": %d, "seconds": %.6f, "p50": %.3f, "p99": %.3f, "max": %.3f, "failed": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    latency.max / 1e3, errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
