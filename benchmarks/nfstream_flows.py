"""NFStream's flows of captures, one JSON line each, in a separate process.

NFStream forks and pins itself to a core.
"""

import json
import sys

from nfstream import NFStreamer

_NO_PACKET = -1


def main() -> None:
    """Meters the captures named on the command line after a JSON object of NFStreamer options."""
    options, *captures = sys.argv[1:]
    for capture in captures:
        for flow in NFStreamer(source=capture, n_meters=1, n_dissections=0, **json.loads(options)):
            kept = sum(direction != _NO_PACKET for direction in flow.splt_direction)
            row = {
                "capture": capture,
                "src_ip": flow.src_ip,
                "dst_ip": flow.dst_ip,
                "src_port": flow.src_port,
                "dst_port": flow.dst_port,
                "protocol": flow.protocol,
                "vlan": flow.vlan_id,
                "packets": [flow.src2dst_packets, flow.dst2src_packets],
                "bytes": [flow.src2dst_bytes, flow.dst2src_bytes],
                "directions": [1 - 2 * direction for direction in flow.splt_direction[:kept]],
                "sizes": flow.splt_ps[:kept],
                "start_ms": flow.bidirectional_first_seen_ms,
            }
            print(json.dumps(row))


if __name__ == "__main__":
    main()
