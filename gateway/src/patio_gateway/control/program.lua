-- Runs in Envoy for each request: who asks, which model, which pods may answer, and which of them is preferred.
-- `program.py` writes the tables of what is known above this text. A name or key is looked up, never searched for.
-- What this cannot decide goes to the front. Nothing here may raise: Envoy then sends the request to the route that
-- answers 503.

local bit = require("bit")
local bxor, rshift, tobit = bit.bxor, bit.rshift, bit.tobit
local byte, find, sub, lower, match, char = string.byte, string.find, string.sub, string.lower, string.match, string.char

-- Brackets and strings of a JSON text that are looked at before its model counts as unreadable.
local MOST_TOKENS = 200000
-- Bytes of a prompt that choose the pod.
local PREFIX = 1024
-- Bytes of a name, and of a session.
local MOST_NAME = 256
local MOST_SESSION = 1024

-- Returns where the string ends whose opening quote is at `start`.
local function closing_quote(text, start)
  local at = start + 1
  while true do
    local quote = find(text, '"', at, true)
    if quote == nil then return nil end
    local before = quote - 1
    while byte(text, before) == 92 do before = before - 1 end
    if (quote - 1 - before) % 2 == 0 then return quote end
    at = quote + 1
  end
end

local SHORT = {b = "\b", f = "\f", n = "\n", r = "\r", t = "\t"}

local function utf8_of(code)
  if code < 0x80 then return char(code) end
  if code < 0x800 then return char(0xC0 + bit.rshift(code, 6), 0x80 + bit.band(code, 0x3F)) end
  if code < 0x10000 then
    return char(0xE0 + bit.rshift(code, 12), 0x80 + bit.band(bit.rshift(code, 6), 0x3F), 0x80 + bit.band(code, 0x3F))
  end
  return char(0xF0 + bit.rshift(code, 18), 0x80 + bit.band(bit.rshift(code, 12), 0x3F),
    0x80 + bit.band(bit.rshift(code, 6), 0x3F), 0x80 + bit.band(code, 0x3F))
end

-- Returns the text between two quotes of JSON.
local function unescaped(text)
  if not find(text, "\\", 1, true) then return text end
  text = text:gsub("\\u([dD][89abAB]%x%x)\\u([dD][c-fC-F]%x%x)", function(high, low)
    return utf8_of(0x10000 + bit.lshift(tonumber(high, 16) - 0xD800, 10) + tonumber(low, 16) - 0xDC00)
  end)
  text = text:gsub("\\(.)(%x?%x?%x?%x?)", function(first, digits)
    if first == "u" and #digits == 4 then return utf8_of(tonumber(digits, 16)) end
    return (SHORT[first] or first) .. digits
  end)
  return text
end

-- Returns the model of a JSON object and where the value of its prompt begins. It stops at the first of each.
local function read_json(text, prompts)
  local at = find(text, "%S")
  if at == nil or byte(text, at) ~= 123 then return nil, nil end
  at = at + 1
  local depth, model, prompt = 1, nil, nil
  for _ = 1, MOST_TOKENS do
    local token = find(text, '["%[%]{}]', at)
    if token == nil then return model, prompt end
    local kind = byte(text, token)
    if kind == 34 then
      local quote = closing_quote(text, token)
      if quote == nil then return model, prompt end
      at = quote + 1
      if depth == 1 then
        local value = match(text, "^%s*:%s*()", at)
        if value ~= nil then
          local key = unescaped(sub(text, token + 1, quote - 1))
          at = value
          if key == "model" then
            if byte(text, value) == 34 then
              local last = closing_quote(text, value)
              if last == nil then return nil, prompt end
              model = unescaped(sub(text, value + 1, last - 1))
              at = last + 1
            else
              model = ""
            end
          elseif prompts[key] and prompt == nil then
            prompt = value
          end
          if model ~= nil and (prompt ~= nil or prompts.none) then return model, prompt end
        end
      end
    elseif kind == 123 or kind == 91 then
      depth = depth + 1
      at = token + 1
    else
      depth = depth - 1
      if depth == 0 then return model, prompt end
      at = token + 1
    end
  end
  return model, prompt
end

-- Returns the last byte of a prompt that chooses the pod: in a list of messages what comes before the first answer,
-- so that each turn of a conversation gets the same pod.
local function prefix_end(text, start)
  local limit = start + PREFIX - 1
  if byte(text, start) ~= 91 then
    local quote = byte(text, start) == 34 and closing_quote(sub(text, start, limit), 1)
    return quote and start + quote - 1 or limit
  end
  local at, depth, last = start, 0, nil
  while true do
    local token = find(text, '["%[%]{}]', at)
    if token == nil or token > limit then return limit end
    local kind = byte(text, token)
    if kind == 34 then
      local quote = closing_quote(sub(text, token, limit), 1)
      if quote == nil then return limit end
      if last ~= nil and depth == 2 and sub(text, token, token + quote - 1) == '"assistant"' then return last end
      at = token + quote
    elseif kind == 123 or kind == 91 then
      depth = depth + 1
      at = token + 1
    else
      depth = depth - 1
      at = token + 1
      if depth == 0 then return last or token end
      if depth == 1 then last = token end
    end
  end
end

-- Returns a hash of some bytes, which goes on from `x`. Each step is exact in a double. Envoy hashes the result again.
local function hashed(x, text, first, last)
  local at = first
  while at + 7 <= last do
    local a, b, c, d, e, f, g, h = byte(text, at, at + 7)
    x = tobit(bxor(x, a + b * 0x100 + c * 0x10000 + d * 0x1000000) * 40503)
    x = tobit(bxor(x, rshift(x, 15), e + f * 0x100 + g * 0x10000 + h * 0x1000000) * 40503)
    x = bxor(x, rshift(x, 13))
    at = at + 8
  end
  for i = at, last do x = tobit(bxor(x, rshift(x, 15), byte(text, i)) * 40503) end
  return x
end

-- Returns the value of the field `model` of a form.
local function read_form(text, boundary)
  local at = 1
  for _ = 1, 1000 do
    local first, last = find(text, "--" .. boundary, at, true)
    if first == nil then return nil end
    local ending = find(text, "\r\n\r\n", last, true)
    if ending == nil then return nil end
    if ending - last < 4096 then
      local head = lower(sub(text, last + 1, ending + 1))
      if find(head, '[;%s]name="?model"?%s*[;\r]') then
        local stop = find(text, "\r\n--" .. boundary, ending + 2, true)
        if stop == nil or stop - ending > MOST_NAME + 4 then return nil end
        return sub(text, ending + 4, stop - 1)
      end
    end
    at = ending + 2
  end
  return nil
end

local function bytes_of_base64(text)
  local alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
  local out, value, bits = {}, 0, 0
  for i = 1, #text do
    local digit = find(alphabet, sub(text, i, i), 1, true)
    if digit == nil then break end
    value = bit.bor(bit.lshift(bit.band(value, 0xFFFF), 6), digit - 1)
    bits = bits + 6
    if bits >= 8 then
      bits = bits - 8
      out[#out + 1] = char(bit.band(bit.rshift(value, bits), 0xFF))
    end
  end
  return table.concat(out)
end

-- Returns the key of a request: the Bearer token, or the user name of Basic.
local function presented(headers)
  local value = headers:get("authorization")
  if value == nil or #value > 8192 then return nil end
  local scheme, rest = match(value, "^(%a+)%s+(%S+)%s*$")
  if scheme == nil then return nil end
  scheme = lower(scheme)
  if scheme == "bearer" then return rest end
  if scheme == "basic" then return match(bytes_of_base64(rest), "^([^:]*)") end
  return nil
end

-- A collection of garbage is dearer than the little that one saves.
collectgarbage("setpause", 300)

-- Tokens that a client has used and its limit does not know yet, in this thread. They are charged with its next request,
-- since Envoy charges nothing when an answer ends.
local UNCHARGED = {}

-- Returns what this request is to be charged, at most all that a minute gives: more would never be granted.
local function charged(client, most)
  local owed = UNCHARGED[client] or 0
  local charge = math.max(1, math.min(owed, most))
  UNCHARGED[client] = math.max(0, owed - charge)
  return charge
end

local function refused(handle)
  handle:respond({[":status"] = "401", ["content-type"] = "application/json", ["www-authenticate"] = "Bearer"},
    '{"error":{"message":"A request needs a valid API key: Authorization: Bearer KEY.",' ..
    '"type":"invalid_request_error","param":null,"code":"invalid_api_key"}}')
end

local function forwarded(handle, headers, cluster, seen, metadata)
  headers:replace("x-patio-cluster", cluster)
  metadata = metadata or handle:streamInfo():dynamicMetadata()
  metadata:set("patio", "request", seen)
  handle:clearRouteCache()
end

local CHAT = {messages = true, prompt = true}
local RESPONSES = {input = true, instructions = true}
local NO_PROMPT = {none = true}
local PROMPTS = {["/v1/chat/completions"] = CHAT, ["/v1/completions"] = CHAT, ["/v1/messages"] = CHAT,
  ["/v1/responses"] = RESPONSES}

-- Returns the model and the prompt of a request's body, its text where that is JSON, and its length.
local function read_body(handle, content_type, path)
  local body = handle:body(true)
  local length = body:length()
  if length == 0 then return nil, nil, nil, 0 end
  local form = match(content_type or "", "^[Mm][Uu][Ll][Tt][Ii][Pp][Aa][Rr][Tt]/[^;]*;.*[Bb][Oo][Uu][Nn][Dd][Aa][Rr][Yy]=\"?([^\";]+)")
  local text = body:getBytes(0, length)
  if form ~= nil then return read_form(text, form), nil, nil, length end
  local model, prompt = read_json(text, PROMPTS[path] or NO_PROMPT)
  return model, prompt, text, length
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local client = headers:get("x-patio-client")
  -- Outside requests lose this header before they come here: a request that has it was sent again by Envoy itself,
  -- since the front said that a pod is ready.
  local again = headers:get("x-patio-admitted") ~= nil
  local path = match(headers:get(":path") or "", "^[^?#]*")
  local open = OPEN[path]
  local limited, charge = nil, nil
  if again then
    -- It counts once.
    headers:remove("x-patio-limit")
    headers:remove("x-patio-tokens")
    headers:remove("x-patio-charge")
  else
    local known = presented(headers)
    known = known ~= nil and CLIENTS[KEYS[known]] or nil
    if known ~= nil then
      client = known.name
      headers:replace("x-patio-client", client)
      if CLOSED then
        if known.limited then headers:replace("x-patio-limit", client) end
        if known.tokens ~= nil then
          limited = client
          charge = charged(client, known.tokens)
          headers:replace("x-patio-tokens", client)
          headers:replace("x-patio-charge", tostring(charge))
        end
      end
    elseif CLOSED and not PUBLIC and not open then
      return refused(handle)
    end
    if known ~= nil or CLOSED then headers:remove("authorization") end
    headers:replace("x-patio-admitted", "1")
  end
  local seen = {client = client, reason = "front", charge = charge}
  local segment = match(path, "^/v[12]/([^/]+)")
  if open or FRONT[segment] then
    if CLOSED and client == nil and not open and segment ~= "models" then return refused(handle) end
    return forwarded(handle, headers, "front", seen)
  end
  if segment ~= nil and sub(path, 1, 4) == "/v2/" and not V2[path] then
    headers:replace(":path", "/v1/" .. sub(headers:get(":path"), 5))
    path = "/v1/" .. sub(path, 5)
  end
  local model, prompt, text, length = nil, nil, nil, 0
  if (segment ~= nil and not PRIVATE[segment]) or PLAIN[match(path, "^/([^/]+)")] then
    model, prompt, text, length = read_body(handle, headers:get("content-type"), path)
    -- The wait for the body ended the life of the object.
    headers = handle:headers()
    model = model or headers:get("x-patio-model")
  end
  if model == nil or #model > MOST_NAME then model = "" end
  local index, adapter = NAMES[model], nil
  if index == nil then
    index = ADAPTERS[model]
    adapter = model
  end
  local endpoint = ENDPOINTS[index]
  if find(model, "^[\33-\126]+$") then
    headers:replace("x-patio-model", model)
    seen.model = model
  else
    headers:remove("x-patio-model")
  end
  local denied = false
  if CLOSED and (endpoint == nil or not endpoint.public) then
    if client == nil then return refused(handle) end
    local may = ALLOWED[client]
    denied = endpoint ~= nil and not (may ~= nil and (may.all or may[index]))
  end
  if endpoint == nil or denied then
    if denied then headers:replace("x-patio-denied", "1") end
    return forwarded(handle, headers, "front", seen)
  end
  seen.endpoint = endpoint.id
  seen.known = model
  -- What the answer is to be charged to, and the bytes of its request.
  if limited ~= nil then headers:replace("x-patio-answer", client .. " " .. length) end
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set("envoy.lb", "endpoint", endpoint.id)
  metadata:set("envoy.lb", "serves", adapter and "adapter:" .. adapter or "base")
  local cluster, reason = endpoint.least, "least-request"
  local session = endpoint.session and headers:get(endpoint.session)
  if session ~= nil and session ~= "" then
    cluster, reason = endpoint.affinity, "session"
    local x = hashed(5381, model, 1, #model)
    headers:replace("x-patio-affinity", tostring(hashed(x, session, 1, math.min(#session, MOST_SESSION))))
  elseif endpoint.prefix and prompt ~= nil then
    cluster, reason = endpoint.affinity, "prefix"
    local x = hashed(5381, adapter or "", 1, #(adapter or ""))
    headers:replace("x-patio-affinity", tostring(hashed(x, text, prompt, math.min(prefix_end(text, prompt), #text))))
  else
    headers:remove("x-patio-affinity")
  end
  seen.reason = adapter and "adapter, " .. reason or reason
  forwarded(handle, headers, cluster, seen, metadata)
end
