-- What each Lua state runs at first.
local jobs, signalled = 0, 0
function nothing() end
function turns() for _ = 1, 100 do end end
function job() turns() jobs = jobs + 1 return jobs end
function signal() signalled = signalled + 1 return signalled end
function signals() return signalled end
