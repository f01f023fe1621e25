-- Walks a declared format over bytes and shows each field: the same walk as vmbus/wire/tree.py, over the same declarations.
-- The generator puts the formats in front of this file (see lua.py); nothing here knows a protocol.

local band = bit.band

local function element_size(element)
    return element.fields and element.size or element.s
end

-- A field's value as a number for expressions; Lua's numbers hold 53 bits, which is more than any count or length.
local function number(range, fld)
    local size = fld.s
    if size > 4 then
        local whole = fld.big and range:uint64() or range:le_uint64()
        return whole:tonumber()
    end
    return fld.big and range:uint() or range:le_uint()
end

local function names_of(value, flags)
    local names, left = {}, value
    for _, flag in ipairs(flags) do
        if math.floor(value / flag[1]) % 2 == 1 then
            names[#names + 1] = flag[2]
            left = left - flag[1]
        end
    end
    if left ~= 0 then names[#names + 1] = string.format("0x%x", left) end
    return #names > 0 and table.concat(names, "|") or "0"
end

local function text_of(range, encoding)
    if encoding:sub(1, 6) == "utf-16" then
        local even = range:len() - range:len() % 2
        return even > 0 and (range:range(0, even):le_ustring():match("^[^%z]*")) or ""
    end
    return (range:string():match("^[^%z]*"))
end

local function problem(tree, fld_or_tree, text)
    (fld_or_tree or tree):add_proto_expert_info(cut_short, text)
end

local walk, walk_list

local function add_integer(tree, tvb, at, fld)
    local range = tvb(at, fld.s)
    local item = fld.big and tree:add(fld.pf, range) or tree:add_le(fld.pf, range)
    if fld.flags then item:append_text(" " .. names_of(number(range, fld), fld.flags)) end
    return range
end

local function add_bytes(tree, tvb, at, size, fld)
    if fld.text then
        return tree:add(fld.pf, tvb(at, size), size > 0 and text_of(tvb(at, size), fld.text) or "")
    end
    return tree:add(fld.pf, tvb(at, size))
end

local function add_part(tree, tvb, at, fld)
    if fld.k == "int" then
        add_integer(tree, tvb, at, fld)
    elseif fld.k == "guid" then
        tree:add_le(fld.pf, tvb(at, 16))
    else
        add_bytes(tree, tvb, at, fld.s, fld)
    end
end

-- Shows the elements of a list below an item of their own; returns where they end.
walk_list = function(tree, tvb, position, stop, count, fld, context)
    local start, index = position, 0
    local least = math.max(element_size(fld.element), 1)
    local group = tree:add(fld.pf, tvb(position, 0))
    while (count == nil and stop - position >= least) or (count ~= nil and index < count) do
        if least > stop - position then
            problem(group, nil, fld.n .. ": " .. count .. " elements wanted, " .. index .. " are there")
            break
        end
        if fld.element.fields then
            local after = walk(group, tvb, fld.element, position, stop, fld.item, context)
            if after <= position then break end
            position = after
        else
            add_part(group, tvb, position, fld.element)
            position = position + fld.element.s
        end
        index = index + 1
    end
    group:set_len(position - start)
    return position
end

local function choose(cases, tag, room)
    local best
    for _, candidate in ipairs(cases[tag] or {}) do
        if room >= candidate.size and (best == nil or candidate.size > best.size) then best = candidate end
    end
    return best
end

local function bounded(tree, item, fld, length, room)
    if length < 0 or length > room then
        problem(tree, item, fld.n .. ": " .. length .. " bytes wanted, " .. room .. " left")
        return false
    end
    return true
end

-- Shows one format below an item of its own (`pf`); returns where it ends and the values of its fields.
walk = function(tree, tvb, fmt, offset, stop, pf, context)
    local item = tree:add(pf or fmt.pf, tvb(offset, 0))
    local position, scope = fmt.walk_fields(item, tvb, fmt, offset, stop, context)
    item:set_len(position - offset)
    return position, scope, item
end

local function walk_fields(tree, tvb, fmt, start, stop, context)
    local scope, position, container_at = {}, start, start
    for _, fld in ipairs(fmt.fields) do
        local k = fld.k
        if fld.head and fld.s > stop - position then
            local left = stop - position
            local item = tree:add(cut, tvb(position, left))
            problem(tree, item, fmt.name .. " is cut short: " .. fld.n .. " needs " .. fld.s .. " bytes, "
                .. left .. " are left")
            return stop, scope
        end
        if k == "int" then
            scope[fld.n] = number(add_integer(tree, tvb, position, fld), fld)
            position = position + fld.s
        elseif k == "bits" then
            if fld.s > 0 then
                container_at = position
                position = position + fld.s
            end
            local range = tvb(container_at, fld.container)
            local item = fld.big and tree:add(fld.pf, range) or tree:add_le(fld.pf, range)
            local whole = number(range, { s = fld.container, big = fld.big })
            local value = math.floor(whole / 2 ^ fld.shift) % 2 ^ fld.width
            scope[fld.n] = value
            if fld.flags then item:append_text(" " .. names_of(value, fld.flags)) end
        elseif k == "guid" then
            tree:add_le(fld.pf, tvb(position, 16))
            position = position + 16
        elseif k == "raw" then
            local item = add_bytes(tree, tvb, position, fld.s, fld)
            if fld.inside then fld.inside(item, tvb, position, position + fld.s, scope, context) end
            position = position + fld.s
        elseif k == "nested" then
            local inner
            position, inner = walk(tree, tvb, fld.element, position, position + fld.s, fld.pf, context)
            scope[fld.n] = inner
        elseif k == "array" then
            position = walk_list(tree, tvb, position, position + fld.s, fld.number, fld, context)
        elseif k == "items" then
            local limit, sound = stop, true
            if fld.length then
                local length = fld.length(scope)
                sound = bounded(tree, nil, fld, length, stop - position)
                if sound then limit = position + length end
            end
            position = walk_list(tree, tvb, position, limit, fld.count and fld.count(scope), fld, context)
        elseif k == "blob" then
            local length = fld.length(scope)
            local after = position + length
            if length < 0 or after > stop then after = stop end
            local item = add_bytes(tree, tvb, position, after - position, fld)
            bounded(tree, item, fld, length, stop - position)
            if fld.inside then fld.inside(item, tvb, position, after, scope, context) end
            position = after
        elseif k == "variant" then
            local limit = stop
            if fld.length then
                local length = fld.length(scope)
                if bounded(tree, nil, fld, length, stop - position) then limit = position + length end
            end
            local chosen = choose(fld.cases, fld.on(scope), limit - position)
            if chosen then
                position = walk(tree, tvb, chosen, position, limit, fld.pf_format, context)
            else
                tree:add(fld.pf, tvb(position, limit - position))
                position = limit
            end
        elseif k == "rest" then
            local item = add_bytes(tree, tvb, position, stop - position, fld)
            if fld.inside then fld.inside(item, tvb, position, stop, scope, context) end
            position = stop
        elseif k == "located" then
            local at, length = start + fld.offset(scope), fld.length(scope)
            if at < start or length < 0 or at + length > stop then
                local item = tree:add(fld.pf, tvb(start, 0))
                problem(tree, item, fmt.name .. "." .. fld.n .. ": bytes " .. (at - start) .. " to "
                    .. (at - start + length) .. " of " .. (stop - start))
            elseif fld.element then
                walk_list(tree, tvb, at, at + length, nil, fld, context)
            else
                local item = add_bytes(tree, tvb, at, length, fld)
                if fld.inside then fld.inside(item, tvb, at, at + length, scope, context) end
            end
        end
    end
    return position, scope
end
