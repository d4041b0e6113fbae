"""IP protocol numbers by the names that flow tables use."""

_NAMES = (
    "hopopt icmp igmp ggp ipv4 st tcp cbt egp igp bbn-rcc-mon nvp-ii pup argus emcon xnet chaos udp mux dcn-meas "
    "hmp prm xns-idp trunk-1 trunk-2 leaf-1 leaf-2 rdp irtp iso-tp4 netblt mfe-nsp merit-inp dccp 3pc idpr xtp "
    "ddp idpr-cmtp tp++ il ipv6 sdrp ipv6-route ipv6-frag idrp rsvp gre dsr bna esp ah i-nlsp swipe narp mobile "
    "tlsp skip ipv6-icmp ipv6-nonxt ipv6-opts any-host cftp any-network sat-expak kryptolan rvd ippc any-disk "
    "sat-mon visa ipcv cpnx cphb wsn pvp br-sat-mon sun-nd wb-mon wb-expak iso-ip vmtp secure-vmtp vines ttp "
    "nsfnet-igp dgp tcf eigrp ospfigp sprite-rpc larp mtp ax.25 ipip micp scc-sp etherip encap any-encryption "
    "gmtp ifmp pnni pim aris scps qnx a/n ipcomp snp compaq-peer ipx-in-ip vrrp pgm any-0hop l2tp ddx iatp stp "
    "srp uti smp sm ptp isis fire crtp crudp sscopmce iplt sps pipe sctp fc rsvp-e2e-ignore mobility udplite "
    "mpls-in-ip manet hip shim6 wesp rohc ethernet aggfrag nsh"
)
"""Names of protocols 0 to 145 in the order of their numbers (IANA, Assigned Internet Protocol Numbers)."""

PROTOCOL_NUMBERS: dict[str, int] = {
    **{name: number for number, name in enumerate(_NAMES.split())},
    "icmp6": 58, "icmpv6": 58, "ospf": 89, "ip": 0, "ipnip": 4, "ipencap": 4, "ip-in-ip": 4, "st2": 5, "bbn-rcc": 10,
    "nvp": 11, "dcn": 19, "sep": 33, "mhrp": 48, "ipv6-no": 59, "aes-sp3-d": 96, "pri-enc": 99, "ipx-n-ip": 111,
    "zero": 114, "sccopmce": 128, "mobility-header": 135, "udp-lite": 136,
}  # fmt: skip
"""IP protocol numbers by name, in lower case: those of IANA, and those that Argus, Zeek and UNSW-NB15 write."""
