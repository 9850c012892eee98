-- Visitors for wrk: the n-th path is requested 1/n times as often as the first one (Zipf's law). Most requests accept gzip, some do not, and
-- some are conditional, so that they get a 304.
--
--   wrk -t1 -c8 -d60s -s benches/wrk/zipf.lua http://127.0.0.1:8080 -- 100 / /a.css /b.png
--
-- The first argument is the average pause of a connection between two requests, in milliseconds. It limits the rate: 8 connections with
-- 100 ms send at most 80 requests per second. The other arguments are the paths.

local seeds = 0

function setup(thread)
  seeds = seeds + 1
  thread:set("seed", seeds)
end

function init(arguments)
  math.randomseed(seed)
  pause = tonumber(arguments[1])
  paths, sums = {}, {}
  local sum = 0
  for position = 2, #arguments do
    sum = sum + 1 / (position - 1)
    table.insert(paths, arguments[position])
    table.insert(sums, sum)
  end
  -- No response of the site is younger than this date.
  later = os.date("!%a, %d %b %Y %H:%M:%S GMT", os.time() + 86400)
end

-- Returns a path by binary search in the sums.
local function path()
  local point = math.random() * sums[#sums]
  local low, high = 1, #sums
  while low < high do
    local middle = math.floor((low + high) / 2)
    if sums[middle] <= point then low = middle + 1 else high = middle end
  end
  return paths[low]
end

function delay()
  return math.floor(math.random() * 2 * pause)
end

function request()
  local fields = {Host = "www.staging.test"}
  if math.random() < 0.8 then fields["Accept-Encoding"] = "gzip" end
  if math.random() < 0.1 then fields["If-Modified-Since"] = later end
  return wrk.format("GET", path(), fields)
end
