/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The C interfaces that the module uses and the kernel crate has no bindings
 * for; Kbuild runs bindgen over this header (see "bindgen" there).
 */

#include <linux/console.h>
#include <linux/etherdevice.h>
#include <linux/if_arp.h>
#include <linux/inetdevice.h>
#include <linux/kmsg_dump.h>
#include <linux/moduleparam.h>
#include <linux/netdevice.h>
#include <linux/netpoll.h>
#include <linux/nsproxy.h>
#include <linux/printk.h>
#include <linux/rtnetlink.h>
#include <linux/skbuff.h>
#include <linux/utsname.h>
#include <net/addrconf.h>
#include <net/if_inet6.h>

const size_t SKB_PROTOCOL_OFFSET = offsetof(struct sk_buff, protocol);
const size_t SKB_MAC_HEADER_OFFSET = offsetof(struct sk_buff, mac_header);
const size_t SKB_NETWORK_HEADER_OFFSET = offsetof(struct sk_buff, network_header);
const size_t SKB_TRANSPORT_HEADER_OFFSET = offsetof(struct sk_buff, transport_header);
