-- Walks a declared format over bytes and shows each field: the same walk as vmbus/wire/tree.py, over the same declarations.
-- The generator puts the formats in front of this file (see lua.py); nothing here knows a protocol. With a tree of nil
-- nothing is shown, and the walk only finds where a format ends.

-- A field's value as a number for expressions; Lua's numbers hold 53 bits, which is more than any count or length.
local function number(range, size, big)
    if size > 4 then
        return (big and range:uint64() or range:le_uint64()):tonumber()
    end
    return big and range:uint() or range:le_uint()
end

-- The names of the flags that are set, and what is left. Each flag is its low and high 32 bits and its name.
local function names_of(value, flags)
    local low, high, names = value:lower(), value:higher(), {}
    for _, flag in ipairs(flags) do
        if band(low, flag[1]) + band(high, flag[2]) > 0 then
            names[#names + 1] = flag[3]
            low, high = low - flag[1], high - flag[2]
        end
    end
    if high > 0 then
        names[#names + 1] = string.format("0x%x%08x", high, low)
    elseif low > 0 then
        names[#names + 1] = string.format("0x%x", low)
    end
    return #names > 0 and table.concat(names, "|") or "0"
end

local function whole_of(range, big)
    return big and range:uint64() or range:le_uint64()
end

local function text_of(range, encoding)
    local text
    if encoding:sub(1, 6) == "utf-16" then
        local even = range:len() - range:len() % 2
        text = even > 0 and range:range(0, even):le_ustring() or ""
    else
        text = range:string()
    end
    return text:match("^[^%z]*")
end

-- Whether only a part of the data is here, so that what is missing is no one's fault.
local is_partial = false

local function problem(item, text)
    if item and not is_partial then item:add_proto_expert_info(malformed, text) end
end

local walk

local function add_integer(tree, tvb, at, fld)
    local range = tvb(at, fld.s)
    local value = number(range, fld.s, fld.big)
    if tree then
        local item = fld.big and tree:add(fld.pf, range) or tree:add_le(fld.pf, range)
        if fld.flags then item:append_text(" " .. names_of(whole_of(range, fld.big), fld.flags)) end
    end
    return value
end

local function add_bits(tree, tvb, at, fld)
    local range = tvb(at, fld.container)
    if fld.wide then
        local whole = whole_of(range, fld.big):rshift(fld.shift):band(fld.wide)
        if tree then tree:add(fld.pf, range, whole) end
        return whole:tonumber()
    end
    local value = math.floor(number(range, fld.container, fld.big) / 2 ^ fld.shift) % 2 ^ fld.width
    if tree then
        local item = fld.big and tree:add(fld.pf, range) or tree:add_le(fld.pf, range)
        if fld.flags then item:append_text(" " .. names_of(UInt64(value), fld.flags)) end
    end
    return value
end

local function add_bytes(tree, tvb, at, size, fld)
    if not tree then return nil end
    local range = tvb(at, size)
    if fld.text then
        return tree:add(fld.pf, range, size > 0 and text_of(range, fld.text) or "")
    end
    return tree:add(fld.pf, range)
end

local function add_scalar(tree, tvb, at, fld)
    if fld.k == "int" then
        add_integer(tree, tvb, at, fld)
    elseif fld.k == "guid" then
        if tree then tree:add_le(fld.pf, tvb(at, 16)) end
    else
        add_bytes(tree, tvb, at, fld.s, fld)
    end
end

-- Shows what lies inside the bytes of a field: by a rule of its own, or as the conversation knows.
local function add_inside(item, tvb, start, stop, fld, scope, context)
    local chosen
    if fld.inside then
        chosen = fld.inside(tvb, start, stop, scope)
    end
    if not chosen and context.within then chosen = context.within[fld.n] end
    if item and chosen then
        local finish = walk(item, tvb, chosen, start, stop, nil, context)
        if finish < stop then item:add(named.padding, tvb(finish, stop - finish)) end
    end
end

-- Shows the elements of a list below an item of their own; returns where they end, and the item.
local function walk_list(tree, tvb, position, stop, count, fld, context)
    local start, index, element = position, 0, fld.element
    local least = math.max(element.size, 1)
    local group = tree and tree:add(fld.pf, tvb(position, 0))
    while count == nil or index < count do
        if least > stop - position then
            if count ~= nil then
                problem(group, fld.n .. ": " .. count .. " elements wanted, " .. index .. " are there")
            end
            break
        end
        if element.fields then
            local after = walk(group, tvb, element, position, stop, nil, context)
            if after <= position then
                problem(group, fld.n .. ": an element of no size")
                break
            end
            position = after
        else
            add_scalar(group, tvb, position, element)
            position = position + element.size
        end
        index = index + 1
    end
    if group then group:set_len(position - start) end
    return position, group
end

local function choose(cases, tag, room)
    local best
    for _, candidate in ipairs(cases[tag] or {}) do
        if room >= candidate.size and (best == nil or candidate.size > best.size) then best = candidate end
    end
    return best
end

local function walk_tail(tree, tvb, position, stop, fmt, fld, scope, context)
    local bound, wrong = stop, nil
    if fld.length then
        local length = fld.length(scope)
        if length >= 0 and length <= stop - position then
            bound = position + length
        else
            wrong = fmt.name .. "." .. fld.n .. ": " .. length .. " bytes wanted, " .. stop - position .. " left"
        end
    end
    if fld.k == "items" then
        local after, group = walk_list(tree, tvb, position, bound, fld.count and fld.count(scope), fld, context)
        if fld.length and after ~= bound then
            wrong = wrong or fld.n .. ": " .. bound - after .. " bytes are too few for one more element"
            after = bound
        end
        if wrong then problem(group, wrong) end
        return after
    end
    if fld.k == "variant" then
        local chosen = choose(fld.cases, fld.on(scope), bound - position)
        if chosen then
            local after = fld.length and walk(nil, tvb, chosen, position, bound, nil, context) or bound
            if not fld.length or after == bound then
                local item
                after, _, item = walk(tree, tvb, chosen, position, bound, fld.pf_format, context)
                if wrong then problem(item, wrong) end
                return after
            end
        end
    end
    local item = add_bytes(tree, tvb, position, bound - position, fld)
    if wrong then problem(item, wrong) end
    add_inside(item, tvb, position, bound, fld, scope, context)
    return bound
end

local function walk_located(tree, tvb, start, stop, fmt, fld, scope, context)
    local at, length = start + fld.offset(scope), fld.length(scope)
    if at < start or length < 0 or at + length > stop then
        local item = tree and tree:add(fld.pf, tvb(start, 0))
        problem(item, fmt.name .. "." .. fld.n .. ": bytes " .. at - start .. " to " .. at - start + length
            .. " of " .. stop - start)
    elseif fld.element then
        walk_list(tree, tvb, at, at + length, nil, fld, context)
    else
        local item = add_bytes(tree, tvb, at, length, fld)
        add_inside(item, tvb, at, at + length, fld, scope, context)
    end
end

-- What a line about a record says: of each format, the name of the first value that has one.
local MOST_LABELS = 3

local function add_label(labels, fld, value)
    local name = fld.names and fld.names[value]
    if name and #labels < MOST_LABELS then labels[#labels + 1] = name end
    return name ~= nil
end

local function walk_fields(tree, tvb, fmt, start, stop, context)
    local scope, position, container_at = {}, start, start
    local labels = context and context.labels
    for _, fld in ipairs(fmt.fields) do
        local k = fld.k
        if fld.head and fld.s > stop - position then
            local left = stop - position
            local item = tree and tree:add(cut_short, tvb(position, left))
            problem(item, fmt.name .. " is cut short: " .. fld.n .. " needs " .. fld.s .. " bytes, "
                .. left .. " are left")
            return stop, scope
        end
        if k == "int" then
            scope[fld.n] = add_integer(tree, tvb, position, fld)
            if labels and add_label(labels, fld, scope[fld.n]) then labels = nil end
            position = position + fld.s
        elseif k == "bits" then
            if fld.s > 0 then
                container_at = position
                position = position + fld.s
            end
            scope[fld.n] = add_bits(tree, tvb, container_at, fld)
            if labels and add_label(labels, fld, scope[fld.n]) then labels = nil end
        elseif k == "guid" then
            add_scalar(tree, tvb, position, fld)
            position = position + 16
        elseif k == "raw" then
            local item = add_bytes(tree, tvb, position, fld.s, fld)
            add_inside(item, tvb, position, position + fld.s, fld, scope, context)
            position = position + fld.s
        elseif k == "nested" then
            position, scope[fld.n] = walk(tree, tvb, fld.element, position, position + fld.s, fld.pf, context)
        elseif k == "array" then
            position = walk_list(tree, tvb, position, position + fld.s, fld.number, fld, context)
        elseif k == "located" then
            walk_located(tree, tvb, start, stop, fmt, fld, scope, context)
        else
            position = walk_tail(tree, tvb, position, stop, fmt, fld, scope, context)
        end
    end
    return position, scope
end

-- Shows one format below an item of its own; returns where it ends, the values of its fields, and the item.
walk = function(tree, tvb, fmt, offset, stop, pf, context)
    local item = tree and tree:add(pf or fmt.pf, tvb(offset, 0))
    local position, scope = walk_fields(item, tvb, fmt, offset, stop, context)
    if item then item:set_len(position - offset) end
    return position, scope, item
end
