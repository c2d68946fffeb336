"""The steps of the protocol that Redis carries out as scripts, each in one step on the server.

The first lines are shared: they read a mark as ``core.intents`` does, by the clock of the server. ``pcall``
lets a value of another type count as none. A server whose memory is full and that drops nothing must still
take marks: since Redis 7 a script can say so.
"""

from __future__ import annotations

from hashlib import sha1
from typing import NamedTuple

_SHARED = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function others(key, writer)
  local value, kept, last, mine = redis.pcall('GET', key), '', 0, false
  if type(value) == 'string' and value:sub(1, 1) == '!' then
    for one, ends in value:sub(2):gmatch('([^,]+);(%d+),') do
      if one == writer then mine = true
      elseif tonumber(ends) > now then
        kept = kept .. one .. ';' .. ends .. ','
        last = math.max(last, tonumber(ends))
      end
    end
  end
  return kept, last, mine
end
local function values(from)
  local found = {}
  for at = from, #KEYS do
    local value = redis.pcall('GET', KEYS[at])
    found[at - from + 1] = type(value) == 'string' and value
  end
  return found
end
"""

_MARK = """
local ends = now + tonumber(ARGV[2])
local tags = tonumber(ARGV[3])
for at = 1, tags do
  local kept, last = others(KEYS[at], ARGV[1])
  local mark = '!' .. kept .. ARGV[1] .. ';' .. string.format('%.0f', ends) .. ','
  redis.call('SET', KEYS[at], mark, 'PX', string.format('%.0f', math.max(last, ends) - now))
end
return values(tags + 1)
"""

_DONE = """
redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[3])
local tags = tonumber(ARGV[5])
for at = 2, tags + 1 do
  local kept, last, mine = others(KEYS[at], ARGV[1])
  local token, life = ARGV[2 * at + 2], ARGV[2 * at + 3]
  if kept ~= '' then
    redis.call('SET', KEYS[at], '!' .. kept, 'PX', string.format('%.0f', last - now))
  elseif mine or ARGV[2] == '1' then
    if token == '' then
      redis.call('DEL', KEYS[at])
    else
      redis.call('SET', KEYS[at], token, 'PX', life)
    end
  end
end
return values(tags + 2)
"""

_CREATE = """
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[1])
local there = {}
for at = 2, #KEYS do
  local token, life = ARGV[2 * at - 1], ARGV[2 * at]
  if redis.call('SET', KEYS[at], token, 'NX', 'PX', life) then
    there[at - 1] = token
  else
    there[at - 1] = redis.pcall('GET', KEYS[at])
    if type(there[at - 1]) ~= 'string' then
      redis.call('SET', KEYS[at], token, 'PX', life)
      there[at - 1] = token
    end
  end
end
return there
"""


class Script(NamedTuple):
    """A script, by its text and by the name under which a server knows it once it has run."""

    text: str
    sha: str

    @classmethod
    def of(cls, text: str) -> Script:
        """Return the script with a text."""
        return cls(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


class Scripts(NamedTuple):
    """What servers are given for one step.

    :param flagged: runs also when the memory is full; before Redis 7 it is not understood.
    :param plain: the same without that.
    """

    flagged: Script
    plain: Script


def _scripts(text: str) -> Scripts:
    return Scripts(Script.of("#!lua flags=allow-oom\n" + text), Script.of(text))


MARK = _scripts(_SHARED + _MARK)
"""Keys: the tags, those watched. Arguments: the writer, its lease in milliseconds, the number of tags.
Returns what is under the keys watched, ``nil`` for nothing."""

DONE = _scripts(_SHARED + _DONE)
"""Keys: the clock, the tags, those watched. Arguments: the writer, ``1`` if it has committed, the life of the
clock in milliseconds, the clock's value, the number of tags; for each tag its token and the life of that.
Returns what is under the keys watched, ``nil`` for nothing."""

CREATE = _scripts(_CREATE)
"""Keys: the clock, the tags. Arguments: the life of the clock in milliseconds, the clock's value; for each
tag its token and the life of that. Returns what is there afterwards. A list or a hash that somebody has put
in the place of a token is replaced: it stands for a token that was evicted."""
