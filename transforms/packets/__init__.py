"""Records to packets: link layer, tunnels, IP, transport, packet bytes and features; no state of flows."""
