-- Pulls of several CDNs for wrk: each request has the name of the next CDN in X-CDN-Provider, accepts gzip, and requests the next path.
-- At the end, the script prints the latencies and how often each status arrived.
--
--   wrk -t1 -c32 -d30s -s benches/wrk/pulls.lua http://127.0.0.1:8080 -- fastly,akamai / /assets/site.css
--
-- The first argument is the list of the CDNs. The other arguments are the paths.

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(arguments)
  requests = 0
  names, paths, statuses = {}, {}, {}
  for name in (arguments[1] or "fastly"):gmatch("[^,]+") do table.insert(names, name) end
  for position = 2, #arguments do table.insert(paths, arguments[position]) end
  if #paths == 0 then paths = {"/"} end
end

function request()
  requests = requests + 1
  -- After all CDNs have requested a path, they request the next path.
  local name = names[(requests - 1) % #names + 1]
  local path = paths[math.floor((requests - 1) / #names) % #paths + 1]
  return wrk.format("GET", path, {["X-CDN-Provider"] = name, ["Accept-Encoding"] = "gzip"})
end

function response(status)
  statuses[status] = (statuses[status] or 0) + 1
end

function done(summary, latency)
  local total = {}
  for _, thread in ipairs(threads) do
    for status, count in pairs(thread:get("statuses")) do total[status] = (total[status] or 0) + count end
  end
  for _, share in ipairs({50, 90, 99, 99.9}) do
    print(string.format("latency  %5.1f %%  %8d us", share, latency:percentile(share)))
  end
  for status, count in pairs(total) do print(string.format("status   %d  %d", status, count)) end
end
