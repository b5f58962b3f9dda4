// SPDX-License-Identifier: GPL-2.0

//! Consoles of the nbcon kind, which printk hands records to.
//!
//! C header: [`include/linux/console.h`](srctree/include/linux/console.h)

use core::{
    marker::PhantomData,
    mem,
    ptr::{
        self,
        NonNull, //
    },
    slice, //
};

use kernel::{
    container_of,
    ffi::{
        c_short,
        c_ulong, //
    },
    interrupt::LocalInterruptDisabled,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed,
            Release, //
        },
        new_spinlock_irq,
        rcu,
        SpinLockIrq,
        SpinLockIrqGuard, //
    },
    time::{
        delay::fsleep,
        Delta,
        Instant,
        Monotonic, //
    },
    types::Opaque, //
};

use super::{
    bindings,
    kmsg,
    panic::Panic, //
};

// `nbcon_seq` holds a whole sequence number on 64-bit machines only.
const _: () = assert!(usize::BITS == 64);

/// The most bytes of a console's name (`struct console`).
const MAX_NAME: usize = 15;

/// The consoles that are registered here: addresses, 0 for none.
static REGISTERED: [Atomic<usize>; 4] = [const { Atomic::new(0) }; 4];

/// The console that is [`Console::AT_ONCE`]: its address, 0 for none.
static AT_ONCE: Atomic<usize> = Atomic::new(0);

/// Makes printk call the consoles that are registered here in the panic that is in progress, for
/// waiting records and for each that follows: [`Console::write`] with [`Write::is_atomic`].
///
/// Before that they are `CON_NBCON_ATOMIC_UNSAFE`, except those that are [`Console::AT_ONCE`], and
/// printk would call them only after the reset.
pub(crate) fn atomic_is_safe_now(_panic: &Panic) {
    for slot in &REGISTERED {
        let con = ptr::with_exposed_provenance_mut::<bindings::console>(slot.load(Relaxed));
        if con.is_null() {
            continue;
        }
        let unsafe_flag = bindings::cons_flags_CON_NBCON_ATOMIC_UNSAFE as c_short;
        // SAFETY: It is registered, and nobody else runs who could unregister it, or change its
        // flags; printk reads them with `READ_ONCE()`.
        unsafe {
            let flags = &raw mut (*con).flags;
            flags.write_volatile(flags.read_volatile() & !unsafe_flag);
        }
    }
}

/// A console's handling of records.
pub(crate) trait Console: Send + Sync + 'static {
    /// The name, as in `/proc/consoles`; at most [`MAX_NAME`] bytes are used.
    const NAME: &'static CStr;

    /// Whether records are written with header and dictionary, as `/dev/kmsg` has them.
    const EXTENDED: bool;

    /// Whether printk calls the console for records of a panic, a warning, an oops and the like as
    /// soon as they are logged, in whatever context, while other CPUs run; they are not waited for
    /// when the console is unregistered. Its thread sleeps, and gets no records: the threads of the
    /// other consoles that are registered here take it along. printk calls it in any case for the
    /// newest record, not always for those before it.
    ///
    /// Otherwise the thread writes all records, except those of a panic after
    /// [`atomic_is_safe_now`].
    const AT_ONCE: bool = false;

    /// Called when a record has been logged after [`listen`], and once after registration, if the
    /// console is [`Self::AT_ONCE`]. Hard interrupt.
    fn logged(&self) {}

    /// Called by the printer thread before each record; may sleep a little to slow the thread down.
    ///
    /// The thread is in an SRCU read-side section that unregistering any console waits for, so this
    /// should not take longer than some tens of milliseconds.
    fn throttle(&self) {}

    /// Writes one record.
    ///
    /// | caller | context |
    /// |---|---|
    /// | the printer thread | process, interrupts off |
    /// | [`Write::is_atomic`] | any, NMI included: locks may only be tried |
    ///
    /// printk never runs two calls for one console at once, except when a panicking CPU takes the
    /// console from one that it has stopped.
    fn write(&self, record: Write<'_>);
}

/// The origin of a record: who has logged it.
#[derive(Clone, Copy)]
pub(crate) struct Origin {
    /// The CPU.
    pub(crate) cpu: u32,
    /// The task's name, padded with zeroes.
    pub(crate) comm: [u8; 16],
}

/// The permission to write one record.
///
/// A context of higher priority may take it away at any time, except within a [`Section`].
///
/// # Invariants
///
/// `ctxt` is what printk handed to the write callback that is running, which it does for all of
/// `'a`.
pub(crate) struct Write<'a> {
    ctxt: NonNull<bindings::nbcon_write_context>,
    atomic: bool,
    _callback: PhantomData<&'a mut ()>,
}

impl<'a> Write<'a> {
    /// Returns whether this may be any context, so that locks may only be tried.
    pub(crate) fn is_atomic(&self) -> bool {
        self.atomic
    }

    /// Returns the origin of the record; [`None`] without `CONFIG_PRINTK_EXECUTION_CTX`.
    pub(crate) fn origin(&self) -> Option<Origin> {
        #[cfg(CONFIG_PRINTK_EXECUTION_CTX)]
        {
            // SAFETY: By the type invariants this is the context of the running callback, and these
            // fields of it stay as they are.
            let ctxt = unsafe { self.ctxt.as_ref() };
            Some(Origin {
                cpu: ctxt.cpu.unsigned_abs(),
                comm: ctxt.comm,
            })
        }
        #[cfg(not(CONFIG_PRINTK_EXECUTION_CTX))]
        None
    }

    /// Returns the proof that interrupts are off, as in every write callback: for locks that are
    /// only tried.
    pub(crate) fn interrupts_off(&self) -> &'a LocalInterruptDisabled {
        // SAFETY: By the type invariants a callback is running for as long as `'a` lasts.
        // `write_thread` runs with `device_lock` held, which turns interrupts off, and printk turns
        // them off around `write_atomic` (`__nbcon_atomic_flush_pending_con()`,
        // `nbcon_legacy_emit_next_record()`).
        unsafe { LocalInterruptDisabled::assume_disabled() }
    }

    /// Begins a section in which the console is not taken away.
    ///
    /// [`None`] if it has been taken: the caller has to return. A CPU that is stopped in such a
    /// section by a panic keeps the console, so the section should be short.
    pub(crate) fn enter(&mut self) -> Option<Section<'_>> {
        // SAFETY: By the type invariants this is the context of the running callback.
        unsafe { bindings::nbcon_enter_unsafe(self.ctxt.as_ptr()) }.then(|| Section {
            // INVARIANT: The section has just been entered.
            ctxt: self.ctxt,
            _write: PhantomData,
        })
    }
}

/// A part of a write that a takeover cannot interrupt; ends when dropped.
///
/// # Invariants
///
/// `ctxt` is the context of a running callback that is in an unsafe section.
pub(crate) struct Section<'a> {
    ctxt: NonNull<bindings::nbcon_write_context>,
    _write: PhantomData<&'a mut ()>,
}

impl Section<'_> {
    /// Ends the section and begins another one; [`None`] as [`Write::enter`].
    ///
    /// In between the console can be taken away.
    pub(crate) fn renew(self) -> Option<Self> {
        let ctxt = self.ctxt;
        drop(self);
        // SAFETY: By the type invariants this is the context of a running callback.
        unsafe { bindings::nbcon_enter_unsafe(ctxt.as_ptr()) }.then(|| Section {
            // INVARIANT: The section has just been entered.
            ctxt,
            _write: PhantomData,
        })
    }

    /// Returns the record.
    pub(crate) fn record(&self) -> &[u8] {
        // SAFETY: By the type invariants we own the console, so the context is not changed.
        let ctxt = unsafe { self.ctxt.as_ref() };
        if ctxt.outbuf.is_null() {
            // The record was lost earlier in this write.
            return &[];
        }
        // SAFETY: `outbuf` has `len` bytes, which nobody changes until the section ends.
        unsafe { slice::from_raw_parts(ctxt.outbuf.cast::<u8>(), ctxt.len as usize) }
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        // A takeover in a panic may ignore the section. Then the next `enter()` tells.
        // SAFETY: By the type invariants the section has been entered and not been left.
        unsafe { bindings::nbcon_exit_unsafe(self.ctxt.as_ptr()) };
    }
}

/// The longest time that the end of a console waits for records to be written. Two consoles end
/// with the module, which should take no longer than two seconds.
const MAX_FLUSH: Delta = Delta::from_millis(800);

/// A console registered with printk; unregistered when dropped.
///
/// # Invariants
///
/// While `con` is registered, its `data` points to this object.
#[pin_data(PinnedDrop)]
pub(crate) struct Registration<T: Console> {
    #[pin]
    con: Opaque<bindings::console>,
    /// Held while the thread prints, against everything that must not happen meanwhile.
    #[pin]
    device: SpinLockIrq<()>,
    /// Whether the console has yet to go back to the oldest record.
    rewind: Atomic<bool>,
    #[pin]
    console: T,
}

// SAFETY: A console can be unregistered from any thread, and `T: Send`.
unsafe impl<T: Console> Send for Registration<T> {}

// SAFETY: The methods that take a shared reference synchronize, and `T: Sync`.
unsafe impl<T: Console> Sync for Registration<T> {}

impl<T: Console> Registration<T> {
    /// Registers a console, which gets the records from now on, or, with `history`, from the oldest
    /// that is still in printk's log.
    ///
    /// Process context. `ENOMEM`: there is no memory for the console, printk's buffer for it, or
    /// its thread; printk does not say which it is.
    ///
    /// A basic console gets a notice of the number of missed records before the text of the next
    /// one; with `history` printk counts from number 0.
    ///
    /// `CON_PRINTBUFFER`, which other consoles use for this, begins where the syslog system call
    /// has read to, which may be the end.
    pub(crate) fn new(console: impl PinInit<T, Error>, history: bool) -> Result<Pin<KBox<Self>>> {
        let this = KBox::pin_init(
            try_pin_init!(Self {
                con <- Opaque::zeroed(),
                device <- new_spinlock_irq!((), "console::device"),
                rewind: Atomic::new(history),
                console <- console,
            }? Error),
            GFP_KERNEL,
        )?;
        let con = this.con.get();
        let extended = if T::EXTENDED {
            bindings::cons_flags_CON_EXTENDED
        } else {
            0
        };
        let later = if T::AT_ONCE {
            0
        } else {
            bindings::cons_flags_CON_NBCON_ATOMIC_UNSAFE
        };
        let flags =
            bindings::cons_flags_CON_ENABLED | bindings::cons_flags_CON_NBCON | later | extended;
        // SAFETY: `con` is ours alone until it is registered, and zeroes are a valid value of it.
        let con_ref = unsafe { &mut *con };
        let name = T::NAME.to_bytes().iter();
        for (to, from) in con_ref.name.iter_mut().take(MAX_NAME).zip(name) {
            *to = *from;
        }
        // All flags are below bit 15.
        con_ref.flags = flags as c_short;
        con_ref.data = (&raw const *this).cast_mut().cast();
        con_ref.write_thread = Some(Self::write_thread);
        con_ref.write_atomic = Some(Self::write_atomic);
        con_ref.device_lock = Some(Self::device_lock);
        con_ref.device_unlock = Some(Self::device_unlock);

        // SAFETY: All that the callbacks use is initialized, and stays until `drop()` has
        // unregistered the console.
        unsafe { bindings::register_console(con) };
        // SAFETY: `con` is valid; `register_console()` has put it on a list or reported an error.
        if unsafe { (*con).node.pprev.is_null() } {
            return Err(ENOMEM);
        }
        let address = con.expose_provenance();
        // A console that finds no place works, except in a panic. There are places enough.
        let mut places = REGISTERED.iter();
        let _ = places.find(|place| place.cmpxchg(0, address, Full).is_ok());
        // A second console of this kind would keep its thread.
        if T::AT_ONCE && AT_ONCE.cmpxchg(0, address, Full).is_ok() {
            // printk has initialized this, and only reads it: it queues the work when there is a
            // record and the thread sleeps.
            //
            // SAFETY: The console is ours, and the field is aligned.
            unsafe { (&raw mut (*con).irq_work.func).write_volatile(Some(Self::leave_asleep)) };
        }
        Ok(this)
    }

    /// Goes back to the oldest record, once, if wanted.
    ///
    /// Called with the lock held, without which nothing is written except in a panic.
    fn rewind(&self) {
        if self.rewind.xchg(false, Relaxed) {
            // `nbcon_seq_force()` is not exported. printk goes on from 0 to the oldest record by
            // itself, and takes those between as dropped.
            self.seq().store(0, Release);
        }
    }

    /// Returns the number of the next record.
    fn seq(&self) -> &Atomic<i64> {
        // SAFETY: `con` is valid as long as `self`; the field is an `atomic_long_t`, which holds
        // the sequence number itself on 64-bit machines.
        unsafe { Atomic::from_ptr((&raw mut (*self.con.get()).nbcon_seq).cast()) }
    }

    /// Returns how many records up to `end` have not been written yet.
    fn pending(&self, end: u64) -> u64 {
        let seq = u64::try_from(self.seq().load(Relaxed)).unwrap_or(end);
        end.saturating_sub(seq)
    }

    /// Waits until the log so far is written, for [`MAX_FLUSH`] at most. Process context.
    pub(crate) fn flush(&self) {
        let (end, began) = (kmsg::end(), Instant::<Monotonic>::now());
        loop {
            let pending = self.pending(end);
            if pending == 0 {
                return;
            }
            if began.elapsed() > MAX_FLUSH {
                pr_warn!("console {}: {} records are not written\n", T::NAME, pending);
                return;
            }
            fsleep(Delta::from_millis(1));
        }
    }

    /// Tells of a record, and leaves the thread of the console asleep from here on. printk wakes a
    /// thread that waits at `rcuwait`, and the thread comes there only after it has been awake;
    /// when the console is unregistered it is woken in another way.
    ///
    /// # Safety
    ///
    /// `work` must be the work of a console that is registered. Hardirq context.
    unsafe extern "C" fn leave_asleep(work: *mut bindings::irq_work) {
        // SAFETY: As the caller promises; nobody keeps a reference to the field, which is read and
        // written as a whole.
        let this = unsafe {
            let con = container_of!(work, bindings::console, irq_work);
            (&raw mut (*con).rcuwait.task).write_volatile(ptr::null_mut());
            Self::from_console(con)
        };
        this.console.logged();
    }

    /// # Safety
    ///
    /// `con` must be the console of a registration that is not dropped meanwhile.
    unsafe fn from_console<'a>(con: *mut bindings::console) -> &'a Self {
        // SAFETY: By the type invariants `data` points to the registration.
        unsafe { &*(*con).data.cast::<Self>() }
    }

    /// Moves the console that is [`Console::AT_ONCE`] on to where this one is, in the place of its
    /// thread: printk would otherwise wait for it before the machine sleeps or restarts.
    ///
    /// # Safety
    ///
    /// Only a callback of printk's may call this.
    unsafe fn take_along(&self) {
        let con = ptr::with_exposed_provenance_mut::<bindings::console>(AT_ONCE.load(Relaxed));
        if !T::AT_ONCE && !con.is_null() {
            // SAFETY: A console leaves `AT_ONCE` before it is unregistered, which waits for the
            // callbacks of all consoles that run. The field is an `atomic_long_t`.
            let seq = unsafe { Atomic::<i64>::from_ptr((&raw mut (*con).nbcon_seq).cast()) };
            let ours = self.seq().load(Relaxed);
            if ours > seq.load(Relaxed) {
                seq.store(ours, Relaxed);
            }
        }
    }

    /// Returns whether there are newer records, and then goes on with the newest one.
    ///
    /// printk goes on from wherever the position is when a callback returns
    /// (`nbcon_seq_try_update()`).
    fn skip_to_newest(&self) -> bool {
        let newest = kmsg::end().saturating_sub(1);
        let skips = self.pending(newest) > 0;
        if skips {
            // Numbers stay far below 2^63.
            self.seq().store(newest as i64, Relaxed);
        }
        skips
    }

    /// # Safety
    ///
    /// printk must call this, with the arguments of a write callback.
    unsafe fn write(
        con: *mut bindings::console,
        ctxt: *mut bindings::nbcon_write_context,
        atomic: bool,
    ) {
        // SAFETY: printk calls back only while the console is registered.
        let this = unsafe { Self::from_console(con) };
        if T::AT_ONCE && this.skip_to_newest() {
            return;
        }
        // INVARIANT: printk hands its context to the write callback.
        this.console.write(Write {
            // SAFETY: printk passes a valid pointer.
            ctxt: unsafe { NonNull::new_unchecked(ctxt) },
            atomic,
            _callback: PhantomData,
        });
    }

    /// # Safety
    ///
    /// Only printk may call this.
    unsafe extern "C" fn write_thread(
        con: *mut bindings::console,
        ctxt: *mut bindings::nbcon_write_context,
    ) {
        // SAFETY: printk calls us.
        unsafe { Self::write(con, ctxt, false) };
    }

    /// # Safety
    ///
    /// Only printk may call this.
    unsafe extern "C" fn write_atomic(
        con: *mut bindings::console,
        ctxt: *mut bindings::nbcon_write_context,
    ) {
        // SAFETY: printk calls us.
        unsafe { Self::write(con, ctxt, true) };
    }

    /// # Safety
    ///
    /// Only printk may call this.
    unsafe extern "C" fn device_lock(con: *mut bindings::console, flags: *mut c_ulong) {
        // SAFETY: printk calls back only while the console is registered.
        let this = unsafe { Self::from_console(con) };
        // The lock is also taken to register and unregister the console.
        //
        // SAFETY: The pointer is only compared; it is set as long as there is a thread.
        let thread = unsafe { (*con).kthread };
        if ptr::eq(thread.cast_const(), kernel::current!().as_ptr()) {
            this.console.throttle();
        }
        mem::forget(this.device.lock());
        // printk hands this to `device_unlock()`. The lock itself knows what interrupts were.
        //
        // SAFETY: printk gives the address of a variable of its own.
        unsafe { flags.write(0) };
        // Registering takes the lock before there is a thread that could write, and after it has
        // set the number.
        this.rewind();
    }

    /// # Safety
    ///
    /// Only printk may call this, after [`Self::device_lock`].
    unsafe extern "C" fn device_unlock(con: *mut bindings::console, _flags: c_ulong) {
        // SAFETY: printk calls back only while the console is registered.
        let this = unsafe { Self::from_console(con) };
        // SAFETY: This is a callback.
        unsafe { this.take_along() };
        // SAFETY: printk has called `device_lock()` on this CPU, which forgot its guard.
        drop(unsafe { SpinLockIrqGuard::new(&this.device, ()) });
    }
}

/// Has [`Console::logged`] called once, when the next record is logged. Any context but NMI.
///
/// A record that is logged at the same time is either told of, or in the log when this returns.
pub(crate) fn listen() {
    let _registered = rcu::read_lock();
    let con = ptr::with_exposed_provenance_mut::<bindings::console>(AT_ONCE.load(Relaxed));
    if con.is_null() {
        return;
    }
    // SAFETY: A console leaves `AT_ONCE` a grace period before it is unregistered, and has its
    // thread until then. printk only looks whether a thread is there to be woken: the work that it
    // then queues is `leave_asleep()`. The field is a pointer, which is read and written as a
    // whole.
    unsafe {
        let task = Atomic::<usize>::from_ptr((&raw mut (*con).rcuwait.task).cast());
        task.xchg((*con).kthread.expose_provenance(), Full);
    }
}

#[pinned_drop]
impl<T: Console> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: `con` is valid. Registering puts it on a list.
        if unsafe { (*self.con.get()).node.pprev.is_null() } {
            return;
        }
        // printk itself does not wait for consoles of this kind.
        if !T::AT_ONCE {
            self.flush();
        }
        let address = self.con.get().addr();
        if AT_ONCE.cmpxchg(address, 0, Full).is_ok() {
            rcu::synchronize_rcu();
        }
        for place in &REGISTERED {
            let _ = place.cmpxchg(address, 0, Full);
        }
        // printk waits a second for a console that is behind, as this one is for good now: nobody
        // takes it along any more. At this number there is never a record.
        if T::AT_ONCE {
            self.seq().store(i64::MAX, Relaxed);
        }
        // Waits for the callbacks that run, and ends the printer thread. `nbcon_free()` of 7.3.4
        // waits for the work that wakes the thread, too, that of 7.2 does not.
        //
        // SAFETY: By the type invariants the console is registered; registering it has initialized
        // the work, which nobody queues any more.
        unsafe {
            bindings::unregister_console(self.con.get());
            bindings::irq_work_sync(&raw mut (*self.con.get()).irq_work);
        }
    }
}
