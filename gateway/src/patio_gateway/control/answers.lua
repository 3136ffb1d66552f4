-- Runs in Envoy for each answer, below `program.lua`, where clients have keys: reads the tokens that it took, for metrics
-- and limits. It costs a third of a request, so it is left out where nobody has a key. It changes no byte.

-- Bytes at the end of an answer in which its usage is looked for.
local TAIL = 4096

-- Returns the tokens that an answer says it took: in OpenAI's words, or in those of the newer APIs.
local function usage(text)
  local at, last = 1, nil
  while at ~= nil do
    local _, stop = find(text, '"usage"', at, true)
    at = stop and stop + 1
    last = at and match(text, "^%s*:%s*{()", at) or last
  end
  if last == nil then return nil, nil end
  local input = match(text, '"prompt_tokens"%s*:%s*(%d+)', last) or match(text, '"input_tokens"%s*:%s*(%d+)', last)
  local output = match(text, '"completion_tokens"%s*:%s*(%d+)', last) or match(text, '"output_tokens"%s*:%s*(%d+)', last)
  if input ~= nil and #input > 9 or output ~= nil and #output > 9 then return nil, nil end
  return tonumber(input), tonumber(output)
end

-- Gives a charge back that a limit refused: it took nothing.
local function given_back(handle)
  local metadata = handle:streamInfo():dynamicMetadata():get("patio")
  local seen = metadata and metadata["request"]
  if seen == nil or seen["charge"] == nil then return end
  UNCHARGED[seen["client"]] = (UNCHARGED[seen["client"]] or 0) + seen["charge"]
end

-- To ask for the request's metadata is dear, so what an answer needs of its request is in a header.
function envoy_on_response(handle)
  local headers = handle:headers()
  local status = headers:get(":status")
  if status == "429" and headers:get("x-patio-limited") ~= nil then
    headers:remove("x-patio-limited")
    return given_back(handle)
  end
  local client, length = match(headers:get("x-patio-answer") or "", "^(.+) (%d+)$")
  if client ~= nil then headers:remove("x-patio-answer") end
  local kind = headers:get("content-type") or ""
  local streams = find(kind, "text/event-stream", 1, true) ~= nil
  if status ~= "200" or not (streams or find(kind, "json", 1, true)) then return end
  local first, second, third, events = "", "", "", 0
  for chunk in handle:bodyChunks() do
    local bytes = chunk:length()
    if bytes > 0 then
      local text = bytes > TAIL and chunk:getBytes(bytes - TAIL, TAIL) or chunk:getBytes(0, bytes)
      first, second, third = second, third, text
      if client ~= nil and streams then
        local at = 1
        while at ~= nil do
          at = find(text, "\ndata:", at + 1, true)
          events = events + 1
        end
      end
    end
  end
  local input, output = usage(first .. second .. third)
  if client ~= nil then
    -- A stream whose client did not ask for its usage: an event is a token, and four bytes of a request are.
    local used = (input or math.ceil(length / 4)) + (output or events)
    UNCHARGED[client] = (UNCHARGED[client] or 0) + used
  end
  if input ~= nil or output ~= nil then
    handle:streamInfo():dynamicMetadata():set("patio", "usage", {input = input or 0, output = output or 0})
  end
end
