-- Follows a connection through its records and shows each: as dissectors/engine does, with the tables R made from the engine's.

local PACKET, EXTERNAL, MESSAGE, REGISTER, NOTE = 3, 4, 1, 5, 6
local GUEST_TO_HOST, HOST_TO_GUEST = 1, 2
local GPA_DIRECT, TRANSFER_PAGES, COMPLETION = 9, 7, 11
local EXECUTE_SRB = 3
local RNDIS_PACKET, QUERY_COMPLETE, PACKET_ID = 1, 0x80000004, 0x80000001

local payload_start, guid_text

-- What is known. Rebuilt whenever Wireshark reads a file from its start.
local channels, pending, decided

local function reset()
    channels, pending, decided = {}, {}, {}
end

function vmbus.init() reset() end

local function channel(id)
    if not channels[id] then channels[id] = { dialect = "ring", requests = {} } end
    return channels[id]
end

local function key(channel_id, direction, transaction)
    return channel_id .. "/" .. direction .. "/" .. transaction
end

local function opposite(direction)
    return direction == GUEST_TO_HOST and HOST_TO_GUEST or direction == HOST_TO_GUEST and GUEST_TO_HOST or 0
end

local function le32(tvb, at)
    return tvb(at, 4):le_uint()
end

local function u32_or_0(tvb, at)
    return at + 4 <= tvb:len() and le32(tvb, at) or 0
end

-- Layers

local function layer(item, fmt, start, stop, within)
    local position, scope = walk(item.tree, item.tvb, fmt, start, stop, nil, { within = within, labels = item.labels })
    return position, scope
end

local function plain(item, field, start, stop)
    item.tree:add(field, item.tvb(start, stop - start))
end

-- SCSI: the format of what a command returns, as vmbus.wire.scsi.response_format says it.

local function bytes_be(bytes, first, last)
    local value = 0
    for index = first, last do value = value * 256 + bytes:get_index(index) end
    return value
end

local function inquiry_answer(A, cdb, room)
    if cdb:get_index(1) % 2 == 0 then return room >= 36 and A.StandardInquiry or A.InquiryHead end
    if room <= 4 then return A.VpdHeader end
    return R.scsi_vpd[cdb:get_index(2)] or A.OtherVpd
end

local RESERVE_IN = { [0] = "ReservationKeys", [1] = "Reservations", [3] = "FullStatusList" }

local function reserve_answer(A, cdb, room)
    local action = cdb:get_index(1) % 32
    if action == 2 then return A.ReserveCapabilities end
    if room <= 8 then return A.ReserveInHead end
    return RESERVE_IN[action] and A[RESERVE_IN[action]]
end

local function answer_format(cdb)
    local code, A = cdb:get_index(0), R.scsi_answers
    local action = cdb:len() > 1 and cdb:get_index(1) % 32 or 0
    if code == 0x12 and cdb:len() >= 6 then return inquiry_answer(A, cdb, bytes_be(cdb, 3, 4)) end
    if code == 0x03 and cdb:len() >= 6 then return action % 2 == 1 and A.DescriptorSense or A.FixedSense end
    if code == 0x9e then
        if cdb:len() < 16 then return nil end
        if action == 0x10 then return bytes_be(cdb, 10, 13) >= 32 and A.Capacity16 or A.ShortCapacity16 end
        return action == 0x12 and A.LbaStatusList or nil
    end
    if code == 0xa0 then return cdb:len() >= 12 and (bytes_be(cdb, 6, 9) >= 16 and A.LunList or A.LunListHead) or nil end
    if code == 0xa3 then
        if cdb:len() < 12 or action ~= 0x0c then return nil end
        return cdb:get_index(2) % 8 > 0 and A.OneSupportedCommand or A.SupportedCommands
    end
    if code == 0x5e then return cdb:len() >= 10 and reserve_answer(A, cdb, bytes_be(cdb, 7, 8)) or nil end
    if code == 0x43 then return cdb:len() >= 10 and (bytes_be(cdb, 7, 8) >= 12 and A.Toc or A.TocHead) or nil end
    if code == 0x51 or code == 0x52 then
        if cdb:len() < 10 then return nil end
        local room = bytes_be(cdb, 7, 8)
        if code == 0x51 then return room > 2 and A.DiscInformation or A.LengthHead end
        return room > 8 and A.TrackInformation or A.TrackInformationHead
    end
    if code == 0xad then
        if cdb:len() < 12 then return nil end
        return cdb:get_index(7) == 0 and A.DvdPhysical or cdb:get_index(7) == 1 and A.DvdCopyright or nil
    end
    local found = R.scsi_plain_answers[code]
    return found
end

-- Dialects: what a channel speaks. `request` is what was kept of the packet that this one completes or belongs to.

local dialects = {}

dialects.ring = {
    keep = function() return {} end,
    payload = function(item, start, stop) plain(item, named.payload, start, stop) end,
    external = function(item, start, stop)
        if start < stop then plain(item, named.payload, start, stop) end
    end,
}

-- The protocols that are nothing but formats, with or without a pipe header.
local function plain_completion(name, asked, room)
    if name ~= "vpci" then return nil end
    local wanted = R.vpci_completions[asked or 0] or R.vpci.status
    for _, candidate in ipairs({ wanted[1], R.vpci.status[1] }) do
        if room >= candidate.size then return candidate end
    end
    return R.vpci.empty[1]
end

local function plain_dialect(name)
    local is_pipe = R.framing[name] ~= "RAW"
    return {
        keep = function(tvb, at) return { message_type = at + 4 <= tvb:len() and le32(tvb, at) or nil } end,
        either_way = true,
        payload = function(item, start, stop, request)
            local finish = stop
            if is_pipe then
                layer(item, R.pipe.header[1], start, stop)
                if stop - start < 8 then return end
                finish = math.min(start + 8 + le32(item.tvb, start + 4), stop)
                start = start + 8
            end
            local fmt
            if item.packet_type == COMPLETION then
                fmt = plain_completion(name, request and request.message_type, finish - start)
            else
                local found = (item.direction == GUEST_TO_HOST and R.to_host or R.to_guest)[name]
                fmt = item.is ~= "payload" and found and found[1] or nil
            end
            if fmt then
                finish = layer(item, fmt, start, finish)
            else
                plain(item, named.payload, start, finish)
            end
            if finish < stop then plain(item, stop - finish <= 7 and named.padding or named.unknown, finish, stop) end
        end,
        external = dialects.ring.external,
    }
end

for name in pairs(R.framing) do dialects[name] = plain_dialect(name) end

-- What a write of a crash dump announces is the guest's next message, and has no header: dissectors.engine.dialects.crash.
local NIX_DUMP_WRITE = 0x104

dialects.crash.observe_packet = function(item, state)
    if item.direction ~= GUEST_TO_HOST then return nil end
    local tvb, at, announced = item.tvb, payload_start(item), state.announced
    state.announced = nil
    if announced and at + 8 <= tvb:len() and le32(tvb, at + 4) == announced then return "payload" end
    if at + 44 <= tvb:len() and le32(tvb, at + 24) == NIX_DUMP_WRITE and le32(tvb, at + 28) == 0 then
        state.announced = le32(tvb, at + 40)
    end
end

dialects.vstor = {
    either_way = true,
    keep = function(tvb, at)
        local kept = { operation = u32_or_0(tvb, at) }
        kept.room = at + 28 <= tvb:len() and le32(tvb, at + 24) or 0
        if kept.operation == EXECUTE_SRB and tvb:len() > at + 28 then
            local room = math.min(tvb(at + 20, 1):uint(), 16, tvb:len() - at - 28)
            if room > 0 then kept.cdb = tvb(at + 28, room):bytes() end
        end
        return kept
    end,
    -- Answers end early, lawfully, where the command left no room for more.
    is_full = function(request, shown) return request.operation == EXECUTE_SRB and shown >= request.room end,
    payload = function(item, start, stop, request)
        if item.packet_type ~= COMPLETION then return layer(item, R.vstor.request[1], start, stop) end
        local operation = request and request.operation or EXECUTE_SRB
        local best = R.vstor.plain[1]
        for _, candidate in ipairs(R.vstor_completions[operation] or {}) do
            if stop - start >= candidate.size and candidate.size > best.size then best = candidate end
        end
        layer(item, best, start, stop)
    end,
    external = function(item, start, stop, request)
        if start >= stop then return end
        local fmt
        if request and request.cdb and le32(item.tvb, 28) == 0 then
            if item.direction == HOST_TO_GUEST then
                fmt = answer_format(request.cdb)
            else
                fmt = R.scsi_parameters[request.cdb:get_index(0)]
            end
        end
        if fmt then return layer(item, fmt.fields and fmt or fmt[1], start, stop) end
        plain(item, named.payload, start, stop)
    end,
}

-- Whether a data message goes on with a coalesced frame: dissectors.engine.dialects.network.
local function is_later_piece(item, at, finish)
    local tvb = item.tvb
    if item.direction ~= HOST_TO_GUEST or finish - at < 36 then return false end
    local info = at + 8 + le32(tvb, at + 28)
    local info_end = math.min(info + le32(tvb, at + 32), finish)
    while info_end - info >= 12 do
        local length, kind, value = le32(tvb, info), le32(tvb, info + 4), info + le32(tvb, info + 8)
        if kind == PACKET_ID and value + 4 <= info_end then
            return tvb(value + 1, 1):uint() % 4 == 1 -- several suballocations, and not the first
        end
        info = info + math.max(length, 12)
    end
    return false
end

local frame_dissector = Dissector.get("eth_withoutfcs")

dialects.nvsp = {
    keep = function() return {} end,
    -- Each of a packet's messages is a record: one that is all there is not cut, whatever the packet's length.
    is_whole = function(tvb, at)
        while tvb:len() - at >= 8 do at = at + math.max(le32(tvb, at + 4), 8) end
        return at == tvb:len()
    end,
    payload = function(item, start, stop)
        local name = item.packet_type == COMPLETION and "completion" or "message"
        layer(item, R.nvsp[name][1], start, stop)
    end,
    observe_external = function(item, state)
        local at, tvb = item.body_at, item.tvb
        if tvb:len() < at + 12 then return nil end
        local kind, request_id = le32(tvb, at), u32_or_0(tvb, at + 8)
        if kind >= 2 and kind <= 9 and kind ~= 3 and kind ~= 7 then
            state.requests[request_id] = { oid = u32_or_0(tvb, at + 12) }
        elseif kind >= 0x80000000 then
            local request = state.requests[request_id]
            state.requests[request_id] = nil
            return request
        end
    end,
    external = function(item, start, stop, request)
        local tvb, at = item.tvb, start
        local fmt = R.rndis[item.direction == HOST_TO_GUEST and "to_guest" or "to_host"][1]
        while stop - at >= 8 do
            local kind, length = le32(tvb, at), le32(tvb, at + 4)
            local finish = length >= 8 and math.min(at + length, stop) or stop
            local within
            if kind == QUERY_COMPLETE and request and request.oid then
                local room = finish - at >= 24 and u32_or_0(tvb, item.body_at + 16) or 0
                within = { information = choose(R.oid_answers, request.oid, room) }
            end
            layer(item, fmt, at, finish, within)
            if kind == RNDIS_PACKET and finish - at >= 16 then
                local frame = at + 8 + le32(tvb, at + 8)
                local size = math.min(frame + le32(tvb, at + 12), finish) - frame
                local last = item.frames[#item.frames]
                if last and size > 0 and is_later_piece(item, at, finish) then
                    last.whole = last.whole or last.first:bytes()
                    last.whole:append(tvb(frame, size):bytes())
                elseif size >= 14 then
                    item.frames[#item.frames + 1] = { first = tvb(frame, size), length = le32(tvb, at + 12) }
                end
            end
            at = finish
        end
        if at < stop then plain(item, named.padding, at, stop) end
    end,
}

for _, name in ipairs({ "scsi", "ide", "fc" }) do dialects[name] = dialects.vstor end
dialects.net = dialects.nvsp

-- Records

local function body_format(tvb, number, start, stop)
    if number == 14 then
        if stop - start < 4 then return nil end
        return choose(R.contacts, le32(tvb, start) >= 0x50000 and 1 or 0, stop - start)
    end
    return choose(R.bodies, number, stop - start)
end

-- What an offered channel speaks: vmbus.wire.protocols.protocol_of.
local function dialect_of(tvb, at)
    local interface = guid_text(tvb(at, 16))
    if guid_text(tvb(at + 16, 16)) == R.gel.instance and R.dialects[interface] == "get" then return "gel" end
    local flags = tvb(at + 48, 2):le_uint()
    local is_socket, is_pipe = band(flags, 0x2000) > 0, band(flags, 0x10) > 0
    if is_socket or interface:sub(9) == R.gel.socket:sub(9) then return "hvsocket" end
    return R.dialects[interface] or (is_pipe and "pipe" or "ring")
end

local function show_message(item, start, stop)
    local tvb = item.tvb
    layer(item, R.heads.message[1], start, stop)
    local at = start + 8
    if stop < at then return end
    local number = le32(tvb, start)
    local fmt = body_format(tvb, number, at, stop)
    if not fmt then
        if at < stop then plain(item, named.unknown, at, stop) end
        return
    end
    local properties = number == 1 and R.offers[guid_text(tvb(at, 16))]
    local after, scope = layer(item, fmt, at, stop, properties and { user_defined = properties[1] } or nil)
    item.about = scope.channel_id
    if after < stop then plain(item, stop - after <= 7 and named.padding or named.unknown, after, stop) end
    if item.pinfo.visited then return end
    if number == 1 then
        channels[le32(tvb, at + 176)] = { dialect = dialect_of(tvb, at), requests = {} }
    elseif number == 13 then
        channels[le32(tvb, at)] = nil
    elseif number == 17 then
        channels = {}
    end
end

-- A GUID in Microsoft's byte order as the declarations write it.
guid_text = function(range)
    local function part(offset, size, swapped)
        local text = ""
        for index = 0, size - 1 do
            local at = swapped and offset + size - 1 - index or offset + index
            text = text .. string.format("%02x", range(at, 1):uint())
        end
        return text
    end
    return part(0, 4, true) .. "-" .. part(4, 2, true) .. "-" .. part(6, 2, true) .. "-" .. part(8, 2) .. "-" .. part(10, 6)
end

-- Which request a record belongs to and what its channel speaks: decided once, in the order of the capture.
local function decide_packet(item)
    local tvb, at = item.tvb, item.body_at
    local state = channel(item.channel_id)
    local found = { dialect = state.dialect }
    if tvb:len() - at < 16 then return found end
    local transaction = tostring(tvb(at + 8, 8):le_uint64())
    if tvb(at, 2):le_uint() == COMPLETION then
        local name = key(item.channel_id, opposite(item.direction), transaction)
        found.request = pending[name]
        pending[name] = nil
    elseif tvb(at + 6, 2):le_uint() % 2 == 1 then
        local speaks = dialects[state.dialect] or dialects.ring
        found.kept = speaks.keep(tvb, payload_start(item))
        pending[key(item.channel_id, item.direction, transaction)] = found.kept
    end
    local speaks = dialects[state.dialect]
    if speaks and speaks.observe_packet then found.is = speaks.observe_packet(item, state) end
    return found
end

local function decide_external(item)
    local state = channel(item.channel_id)
    local speaks = dialects[state.dialect] or dialects.ring
    local transaction = tostring(item.tvb(16, 8):le_uint64())
    local found = { dialect = state.dialect, request = pending[key(item.channel_id, item.direction, transaction)] }
    if not found.request and (speaks.either_way or state.dialect == "ring") then
        found.request = pending[key(item.channel_id, opposite(item.direction), transaction)]
    end
    if speaks.observe_external then
        found.request = speaks.observe_external(item, state) or found.request
    end
    return found
end

payload_start = function(item)
    local tvb, at = item.tvb, item.body_at
    local offset, length = tvb(at + 2, 2):le_uint(), tvb(at + 4, 2):le_uint()
    local start = at + offset * 8
    if offset < 2 or offset > length or length * 8 > tvb:len() - at then
        start = math.min(math.max(start, at + 16), tvb:len())
    end
    return start
end

local function show_packet(item, found)
    local tvb, at, stop = item.tvb, item.body_at, item.tvb:len()
    layer(item, R.heads.descriptor[1], at, stop)
    if stop - at < 16 then return end
    item.packet_type, item.is = tvb(at, 2):le_uint(), found.is
    local start = payload_start(item)
    if at + 16 < start then
        local extension = R.extensions[item.packet_type]
        if extension then
            layer(item, extension[1], at + 16, start)
        else
            plain(item, named.extension, at + 16, start)
        end
    end
    local speaks = dialects[found.dialect] or dialects.ring
    if start < stop then speaks.payload(item, start, stop, found.request) end
end

-- Says what the snap length cut off, so that nobody takes it for a fault.
local function look_at_end(item, found)
    local tvb, speaks = item.tvb, dialects[found.dialect] or dialects.ring
    local shown, total, offset = tvb:len() - item.body_at, le32(tvb, 24), le32(tvb, 28)
    local is_cut = offset + shown < total
    is_partial = is_cut or offset > 0 or (speaks.is_full and found.request and speaks.is_full(found.request, shown)) or false
    item.is_cut = is_cut and not (speaks.is_whole and speaks.is_whole(tvb, item.body_at))
    if item.is_cut then
        local text = string.format("Cut short by the snap length: %d of %d bytes recorded", shown, total - offset)
        item.tree:add_proto_expert_info(snapped, text)
    end
end

-- How many bytes of a frame its headers take, up to the transport's.
local TRANSPORT_HEADER = { [1] = 8, [6] = 20, [17] = 8, [58] = 8 }

local function headers_of(frame)
    local at = frame(12, 2):uint() == 0x8100 and 18 or 14
    if frame:len() < at + 20 then return at + 20 end
    local kind = frame(at - 2, 2):uint()
    if kind == 0x0800 then return at + frame(at, 1):uint() % 16 * 4 + (TRANSPORT_HEADER[frame(at + 9, 1):uint()] or 0) end
    if kind == 0x86dd then return at + 40 + (TRANSPORT_HEADER[frame(at + 6, 1):uint()] or 0) end
    return at + 28
end

-- The bytes of a frame for Wireshark's own dissectors. They take a frame that ends before its length says so for malformed,
-- and Lua cannot tell them that the rest was not recorded. So it is there, as zeros, if the headers are; the name says it.
local LONGEST_FRAME = 65536 + 18

local function frame_bytes(item, frame)
    if frame.whole then return frame.whole:tvb("Coalesced frame") end
    local recorded = frame.first:len()
    if not item.is_cut or frame.length <= recorded or frame.length > LONGEST_FRAME or headers_of(frame.first) > recorded then
        return frame.first:tvb()
    end
    local bytes = frame.first:bytes()
    bytes:set_size(frame.length)
    return bytes:tvb(string.format("Frame, %d of %d bytes recorded, then zeros", recorded, frame.length))
end

local KIND = { [MESSAGE] = "message", [2] = "signal", [PACKET] = "packet", [REGISTER] = "register" }
local SENDER = { [GUEST_TO_HOST] = "guest", [HOST_TO_GUEST] = "host" }

-- The columns of Wireshark's list: what a record is, whom it is from, and what it says.
local function fill_columns(item, kind, found)
    local columns = item.pinfo.cols
    columns.protocol = "VMBus/" .. found.dialect
    if SENDER[item.direction] then
        columns.src, columns.dst = SENDER[item.direction], SENDER[opposite(item.direction)]
    end
    local what = item.labels
    if kind == NOTE then
        what = { item.body_at < item.tvb:len() and item.tvb(item.body_at):string() or "" }
    elseif kind == EXTERNAL then
        what[#what + 1] = string.format("%d bytes", le32(item.tvb, 24))
    elseif kind == REGISTER or #what == 0 then
        table.insert(what, 1, KIND[kind])
    end
    if found.kept then found.kept.labels = item.labels end
    local asked = kind == PACKET and found.request and found.request.labels
    if asked and #asked > 0 then what[#what + 1] = "for " .. asked[#asked] end
    local id = item.about or item.channel_id
    local where = id > 0 and string.format("channel %d: ", id) or ""
    columns.info = where .. table.concat(what, " ")
end

function vmbus.dissector(tvb, pinfo, root)
    local size = tvb:len()
    is_partial = false
    pinfo.cols.protocol = "VMBus"
    local top = root:add(vmbus, tvb())
    if size < 16 then return size end
    local kind, header_size = tvb(1, 1):uint(), tvb(2, 2):le_uint()
    local known = tvb(0, 1):uint() == 1 and R.records[kind] ~= nil and header_size >= 32 and header_size <= size
    local item = {
        tvb = tvb, tree = top, pinfo = pinfo, body_at = known and header_size or size,
        direction = tvb(4, 1):uint(), channel_id = le32(tvb, 8), frames = {}, packet_type = 0,
    }
    if not known then
        layer(item, R.heads.record[1], 0, size)
        return size
    end
    item.labels = {}
    layer(item, R.records[kind][1], 0, header_size)
    local found = decided[pinfo.number]
    if not found then
        if kind == PACKET then
            found = decide_packet(item)
        elseif kind == EXTERNAL then
            found = decide_external(item)
        else
            found = { dialect = item.channel_id > 0 and channel(item.channel_id).dialect or "control" }
        end
        decided[pinfo.number] = found
    end
    if kind == PACKET then
        show_packet(item, found)
    elseif kind == EXTERNAL then
        local speaks = dialects[found.dialect] or dialects.ring
        look_at_end(item, found)
        speaks.external(item, header_size, size, found.request)
    elseif kind == NOTE then
        top:add(named.text, tvb(header_size, size - header_size))
    elseif kind == MESSAGE then
        if le32(tvb, 28) == 1 then
            show_message(item, header_size, size)
        else
            plain(item, named.payload, header_size, size)
        end
    elseif header_size < size then
        plain(item, named.unknown, header_size, size)
    end
    fill_columns(item, kind, found)
    for _, frame in ipairs(item.frames) do
        frame_dissector:call(frame_bytes(item, frame), pinfo, root)
    end
    return size
end

vmbus.fields = pfs
reset()
DissectorTable.get("wtap_encap"):add(wtap.USER0, vmbus)
