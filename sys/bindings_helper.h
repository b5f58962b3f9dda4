/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The C interfaces that the module uses and the kernel crate has no bindings
 * for; Kbuild runs bindgen over this header (see "bindgen" there).
 */

#include <linux/console.h>
#include <linux/debug_locks.h>
#include <linux/etherdevice.h>
#include <linux/if_arp.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/inetdevice.h>
#include <linux/kdebug.h>
#include <linux/kexec.h>
#include <linux/kmsg_dump.h>
#include <linux/moduleparam.h>
#include <linux/net.h>
#include <linux/netdevice.h>
#include <linux/netpoll.h>
#include <linux/nsproxy.h>
#include <linux/panic.h>
#include <linux/percpu.h>
#include <linux/preempt.h>
#include <linux/printk.h>
#include <linux/proc_ns.h>
#include <linux/random.h>
#include <linux/reboot.h>
#include <linux/rtnetlink.h>
#include <linux/sched/isolation.h>
#include <linux/skbuff.h>
#include <linux/socket.h>
#include <linux/timekeeping.h>
#include <linux/timer.h>
#include <linux/utsname.h>
#include <net/addrconf.h>
#include <net/dst.h>
#include <net/if_inet6.h>
#include <net/neighbour.h>
#include <net/net_namespace.h>
#include <net/netevent.h>
#include <net/sock.h>

const size_t SKB_DEV_OFFSET = offsetof(struct sk_buff, dev);
const size_t SKB_VLAN_ALL_OFFSET = offsetof(struct sk_buff, vlan_all);
const size_t SKB_QUEUE_MAPPING_OFFSET = offsetof(struct sk_buff, queue_mapping);
const size_t SKB_PROTOCOL_OFFSET = offsetof(struct sk_buff, protocol);
const size_t SKB_MAC_HEADER_OFFSET = offsetof(struct sk_buff, mac_header);
const size_t SKB_NETWORK_HEADER_OFFSET = offsetof(struct sk_buff, network_header);
const size_t SKB_TRANSPORT_HEADER_OFFSET = offsetof(struct sk_buff, transport_header);

const size_t SKB_SHARED_DATAREF_OFFSET =
	offsetof(struct skb_shared_info, dataref);
const unsigned int SKB_SHARED_DATAREF_MASK = SKB_DATAREF_MASK;

const size_t SOFTNET_XMIT_MORE_OFFSET = offsetof(struct softnet_data, xmit.more);
const size_t NET_DEVICE_PRIV_FLAGS_OFFSET = offsetof(struct net_device, priv_flags_fast);
const unsigned int DEV_TX_SKB_SHARING = IFF_TX_SKB_SHARING;
const unsigned long long DEV_LLTX = 1ULL << 32;
const unsigned int DEV_NO_QUEUE = IFF_NO_QUEUE;
const unsigned int DEV_VRF = IFF_L3MDEV_MASTER;
const unsigned int DEV_OPEN_VSWITCH = IFF_OPENVSWITCH;
const unsigned int DEV_HAS_PORTS =
	IFF_EBRIDGE | IFF_BONDING | IFF_TEAM | IFF_FAILOVER;
const unsigned int DEV_SLAVE = IFF_SLAVE;
const size_t NET_DEVICE_MTU_OFFSET = offsetof(struct net_device, mtu);
const size_t NET_DEVICE_FLAGS_OFFSET = offsetof(struct net_device, flags);
const size_t NET_DEVICE_LINK_OPS_OFFSET =
	offsetof(struct net_device, rtnl_link_ops);
const size_t TXQ_STOPPED = QUEUE_STATE_DRV_XOFF;
const size_t TXQ_FROZEN = QUEUE_STATE_FROZEN;
const unsigned int XMIT_MASK = NET_XMIT_MASK;
const size_t NAPI_NPSVC = NAPIF_STATE_NPSVC;
const unsigned int PREEMPT_NMI = NMI_MASK;
#ifdef CONFIG_ARM64
const size_t TASK_PREEMPT_COUNT_OFFSET =
	offsetof(struct task_struct, thread_info.preempt_count);
#endif

const size_t SOCK_DATA_READY_OFFSET = offsetof(struct sock, sk_data_ready);
const size_t SOCK_ERROR_REPORT_OFFSET = offsetof(struct sock, sk_error_report);
const size_t SOCK_USER_DATA_OFFSET = offsetof(struct sock, sk_user_data);
const size_t SOCK_DST_CACHE_OFFSET = offsetof(struct sock, sk_dst_cache);
const size_t SOCKET_SK_OFFSET = offsetof(struct socket, sk);
const size_t NET_NS_OFFSET = offsetof(struct net, ns);
const size_t NET_DEVICE_ND_NET_OFFSET = offsetof(struct net_device, nd_net);
const size_t NET_DEVICE_IFINDEX_OFFSET = offsetof(struct net_device, ifindex);
const size_t MSGHDR_MSG_FLAGS_OFFSET = offsetof(struct msghdr, msg_flags);
const size_t MSGHDR_SIZE = sizeof(struct msghdr);

const size_t DST_ENTRY_OPS_OFFSET = offsetof(struct dst_entry, ops);
const size_t DST_OPS_FAMILY_OFFSET = offsetof(struct dst_ops, family);
const size_t DST_OPS_NEIGH_LOOKUP_OFFSET = offsetof(struct dst_ops, neigh_lookup);
const size_t NEIGHBOUR_REFCNT_OFFSET = offsetof(struct neighbour, refcnt);
const size_t NEIGHBOUR_USED_OFFSET = offsetof(struct neighbour, used);
const size_t NEIGHBOUR_NUD_STATE_OFFSET = offsetof(struct neighbour, nud_state);
const size_t NEIGHBOUR_HA_SEQUENCE_OFFSET =
	offsetof(struct neighbour, ha_lock.seqcount.seqcount.sequence);
const size_t NEIGHBOUR_HA_OFFSET = offsetof(struct neighbour, ha);
const size_t NEIGHBOUR_DEV_OFFSET = offsetof(struct neighbour, dev);
