-- Shows one format at a time, for the tests: two bytes that say which, then its bytes.

function vmbus.dissector(tvb, pinfo, root)
    local top = root:add(vmbus, tvb())
    walk(top, tvb, R.probes[tvb(0, 2):le_uint()][1], 2, tvb:len(), nil, {})
    return tvb:len()
end

vmbus.fields = pfs
DissectorTable.get("wtap_encap"):add(wtap.USER1, vmbus)
