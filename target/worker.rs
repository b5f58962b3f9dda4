// SPDX-License-Identifier: GPL-2.0

//! The work item of a target.
//!
//! It runs in process context, once a second and when a response has arrived, an address or a
//! neighbour has changed, or the timer has something to be logged. The first transmission of
//! records does not depend on it, except for a backlog.

use kernel::{
    sync::Arc,
    workqueue::{
        impl_has_work,
        WorkItem, //
    },
};

use crate::{
    ack,
    sys::time::now_ms,
    target::{
        catch_up,
        path_refresh,
        Target, //
    },
    test_hooks, //
};

/// The shortest time between two looks at the addresses, in milliseconds: neighbours may change
/// often, with an event each.
const FOLLOW_MS: u64 = 100;

impl_has_work! {
    impl HasWork<Self> for Target { self.work }
}

impl WorkItem for Target {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        if !this.is_enabled() {
            return;
        }
        test_hooks::work(|f| {
            this.with_port(|port| port.device().map(f));
        });
        let work = &mut *this.acks().work().lock();
        let now = now_ms();
        if now.saturating_sub(work.followed_at) >= FOLLOW_MS {
            work.followed_at = now;
            path_refresh::follow(&this);
        }
        if this.is(true) {
            ack::serve(&this, work, now);
            catch_up::send(&this);
        }
    }
}
