-- Tables, closures and strings.
local function tree(depth)
    if depth == 0 then return {} end
    return { tree(depth - 1), tree(depth - 1) }
end
local function count(t) return t[1] and 1 + count(t[1]) + count(t[2]) or 1 end
local kept, nodes = tree(15), 0
for i = 1, 24 do nodes = nodes + count(tree(11)) end
local words = {}
for i = 1, 120000 do
    local word = ("w" .. (i * 7919) % 20011) .. "/" .. i % 17
    words[word] = (words[word] or 0) + 1
end
local list = {}
for word, n in pairs(words) do list[#list + 1] = word .. "=" .. n end
table.sort(list)
local parts = {}
for i = 1, 40000 do parts[#parts + 1] = string.rep("ab", i % 60) .. i end
print(nodes, count(kept), #list, #table.concat(parts, ","))
