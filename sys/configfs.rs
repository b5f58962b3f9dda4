// SPDX-License-Identifier: GPL-2.0

//! configfs beyond [`kernel::configfs`]: default groups, files that everybody may read, and
//! subsystems whose registration may fail.
//!
//! C header: [`include/linux/configfs.h`](srctree/include/linux/configfs.h)

use core::{
    fmt,
    ptr, //
};

use kernel::{
    bindings,
    configfs::{
        Group,
        GroupOperations,
        HasGroup, //
    },
    container_of,
    error::to_result,
    ffi::c_char,
    page::PAGE_SIZE,
    prelude::*,
    str::CStrExt,
    sync::{
        Arc,
        ArcBorrow,
        UniqueArc, //
    },
    types::Opaque, //
};

/// A directory in the root of configfs; removed when dropped.
///
/// [`kernel::configfs::Subsystem`] unregisters itself even if registering has failed because its
/// name is taken, and the kernel follows a null pointer then. This one has no attributes, and
/// releases the default groups of the directories that are removed from it.
///
/// # Invariants
///
/// `subsystem` is registered, and of type `item_type` with [`Self::OPERATIONS`].
#[pin_data(PinnedDrop)]
pub(crate) struct Subsystem<Data: GroupOperations> {
    data: Data,
    #[pin]
    item_type: Opaque<bindings::config_item_type>,
    #[pin]
    subsystem: Opaque<bindings::configfs_subsystem>,
}

// SAFETY: configfs can be used from any thread, and `Data: Send`.
unsafe impl<Data: GroupOperations + Send> Send for Subsystem<Data> {}

// SAFETY: A shared reference gives nothing; the callbacks give `&Data` to any thread.
unsafe impl<Data: GroupOperations + Sync> Sync for Subsystem<Data> {}

impl<Data: GroupOperations + Send + Sync + 'static> Subsystem<Data> {
    const OPERATIONS: &bindings::configfs_group_operations = &bindings::configfs_group_operations {
        make_item: None,
        make_group: Some(Self::make_group),
        disconnect_notify: None,
        drop_item: Some(Self::drop_item),
        is_visible: None,
        is_bin_visible: None,
    };

    /// Registers a directory. Process context.
    ///
    /// While there is a directory in it the module cannot be unloaded. `EEXIST`: the name is taken.
    pub(crate) fn new(
        name: &'static CStr,
        module: &'static ThisModule,
        data: Data,
    ) -> Result<Pin<KBox<Self>>> {
        // The subsystem comes last, so that all of it is there when it is called.
        KBox::pin_init(
            try_pin_init!(&this in Self {
                data,
                item_type <- Opaque::ffi_init(|item_type: *mut bindings::config_item_type| {
                    // SAFETY: The place is valid and ours, and zeroes are a valid value of it. The
                    // operations are never changed, whatever their type says.
                    unsafe {
                        item_type.write_bytes(0, 1);
                        (*item_type).ct_owner = module.as_ptr();
                        (*item_type).ct_group_ops = ptr::from_ref(Self::OPERATIONS).cast_mut();
                    }
                }),
                // INVARIANT: Registered with this type, or not initialized.
                subsystem <- Opaque::try_ffi_init(|subsystem: *mut bindings::configfs_subsystem| {
                    // SAFETY: The place is valid and ours, zeroes are a valid value of it, and the
                    // type beside it is initialized. Both stay where they are until `drop()` has
                    // unregistered the subsystem.
                    unsafe {
                        subsystem.write_bytes(0, 1);
                        bindings::config_group_init_type_name(
                            &raw mut (*subsystem).su_group,
                            name.as_char_ptr(),
                            Opaque::cast_into(&raw const (*this.as_ptr()).item_type),
                        );
                        bindings::__mutex_init(
                            &raw mut (*subsystem).su_mutex,
                            c"configfs subsystem".as_char_ptr(),
                            kernel::static_lock_class!().as_ptr(),
                        );
                        to_result(bindings::configfs_register_subsystem(subsystem))
                    }
                }),
            }? Error),
            GFP_KERNEL,
        )
    }

    /// # Safety
    ///
    /// `group` must be that of a registered subsystem of this type.
    unsafe fn data<'a>(group: *mut bindings::config_group) -> &'a Data {
        // SAFETY: As the caller promises.
        unsafe {
            let subsystem = container_of!(group, bindings::configfs_subsystem, su_group);
            let this = container_of!(Opaque::cast_from(subsystem), Self, subsystem);
            &(*this).data
        }
    }

    /// # Safety
    ///
    /// Only configfs may call this.
    unsafe extern "C" fn make_group(
        group: *mut bindings::config_group,
        name: *const c_char,
    ) -> *mut bindings::config_group {
        // SAFETY: configfs passes the group of the subsystem, which is registered.
        let data = unsafe { Self::data(group) };
        // SAFETY: configfs passes a terminated string.
        let child = data.make_group(unsafe { CStr::from_char_ptr(name) });
        match child.and_then(|child| Arc::pin_init(child, GFP_KERNEL)) {
            // The reference that is given back by `release()`, which the item type of each `Group`
            // has.
            //
            // SAFETY: The group is valid.
            Ok(child) => unsafe { Group::<Data::Child>::group(Arc::into_raw(child)).cast_mut() },
            Err(e) => e.to_ptr(),
        }
    }

    /// # Safety
    ///
    /// Only configfs may call this.
    unsafe extern "C" fn drop_item(
        group: *mut bindings::config_group,
        item: *mut bindings::config_item,
    ) {
        // SAFETY: configfs passes the group of the subsystem, which is registered, and an item that
        // was made by `make_group()`; it has a reference that we give back. It has taken the item
        // out of its tree, with the default groups, and does not use their list any more.
        unsafe {
            let child = container_of!(item, bindings::config_group, cg_item);
            bindings::configfs_remove_default_groups(child);
            if Data::HAS_DROP_ITEM {
                let child = Group::<Data::Child>::container_of(child);
                Self::data(group).drop_item(ArcBorrow::from_raw(child));
            }
            bindings::config_item_put(item);
        }
    }
}

#[pinned_drop]
impl<Data: GroupOperations> PinnedDrop for Subsystem<Data> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants it is registered.
        unsafe { bindings::configfs_unregister_subsystem(self.subsystem.get()) };
    }
}

/// Writes the value of an attribute, and returns its length (`sysfs_emit()`).
///
/// `E2BIG`: it does not fit into the page.
pub(crate) fn emit(page: &mut [u8; PAGE_SIZE], value: fmt::Arguments<'_>) -> Result<usize> {
    struct Page<'a> {
        page: &'a mut [u8; PAGE_SIZE],
        len: usize,
    }

    impl fmt::Write for Page<'_> {
        fn write_str(&mut self, s: &str) -> fmt::Result {
            let to = self.page.get_mut(self.len..self.len + s.len());
            to.ok_or(fmt::Error)?.copy_from_slice(s.as_bytes());
            self.len += s.len();
            Ok(())
        }
    }

    let mut to = Page { page, len: 0 };
    fmt::Write::write_fmt(&mut to, value).map_err(|_| E2BIG)?;
    Ok(to.len)
}

/// Makes a group appear in the directory of another: a default group.
///
/// To be called in the initializer that [`GroupOperations::make_group`] returns, before userspace
/// sees either group. The child is kept until its parent is removed from a [`Subsystem`]; in
/// another place it stays for ever.
///
/// # Examples
///
/// ```ignore
/// fn make_group(&self, name: &CStr) -> Result<impl PinInit<Group<Dir>, Error>> {
///     let stats = Group::new(c"stats".try_into()?, stats_type, stats);
///     let stats = UniqueArc::pin_init(stats, GFP_KERNEL)?;
///     Ok(Group::new(name.try_into()?, dir_type, dir).pin_chain(|dir| {
///         add_default_group(dir, stats);
///         Ok(())
///     }))
/// }
/// ```
pub(crate) fn add_default_group<Parent, Child: 'static>(
    parent: Pin<&mut Group<Parent>>,
    child: Pin<UniqueArc<Group<Child>>>,
) {
    // SAFETY: The pointer is not used to move the group.
    let parent: *const Group<Parent> = unsafe { parent.get_unchecked_mut() };
    // The reference that configfs gives back by way of `release()`, which the item type of each
    // `Group` has.
    let child = Arc::into_raw(Arc::from(child));
    // The same as `configfs_add_default_group()`, which is inline: `list_add_tail()`.
    //
    // SAFETY: Both groups are initialized, and in nobody else's hands, as the references to them
    // show; they stay where they are as they are pinned.
    unsafe {
        let entry = &raw mut (*Group::<Child>::group(child).cast_mut()).group_entry;
        let head = &raw mut (*Group::<Parent>::group(parent).cast_mut()).default_groups;
        let last = (*head).prev;
        (*entry).next = head;
        (*entry).prev = last;
        (*last).next = entry;
        (*head).prev = entry;
    }
}

/// Completes the attributes of a group as `CONFIGFS_ATTR()` and `CONFIGFS_ATTR_RO()` do: everybody
/// may read them, and an open file keeps the module from being unloaded.
///
/// [`kernel::configfs::Attribute`] has mode 0660 and no owner; a file that is still open when its
/// directory and then the module are gone would call into nothing when it is closed.
///
/// To be called where [`add_default_group`] is: a file that is opened earlier does not count.
pub(crate) fn complete_attributes<Data>(group: &Group<Data>) {
    const READ: u16 = 0o444;
    const WRITE: u16 = 0o200;

    // SAFETY: The group is initialized, so it has a type. Attributes are static and made to be
    // changed (`Opaque`), and the list of them ends in null. These two fields are written as a
    // whole, always with the same values, and C code may read them meanwhile.
    unsafe {
        let item_type = (*Group::group(group)).cg_item.ci_type;
        let mut attribute = (*item_type).ct_attrs;
        while !attribute.is_null() && !(*attribute).is_null() {
            let mode = if (**attribute).store.is_some() {
                READ | WRITE
            } else {
                READ
            };
            ptr::write_volatile(&raw mut (**attribute).ca_mode, mode);
            ptr::write_volatile(&raw mut (**attribute).ca_owner, (*item_type).ct_owner);
            attribute = attribute.add(1);
        }
    }
}

/// Returns the name of a group's directory; [`None`] if there was no memory for it, which
/// `config_group_init_type_name()` does not tell. A group without a name must not be handed to
/// configfs.
pub(crate) fn name_of<Data>(group: &Group<Data>) -> Option<&CStr> {
    // SAFETY: The group is initialized. Its name, if it has one, ends in NUL and stays as long as
    // the group: nothing here renames one.
    unsafe {
        let name = (*Group::group(group)).cg_item.ci_name;
        (!name.is_null()).then(|| CStr::from_char_ptr(name))
    }
}
