# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Debian 13's packages, unpacked into the cache without touching the machine's
# own apt: a private apt with its own sources, lists and downloads. To be
# sourced after common.sh, and used only when the cache lacks something.

# The architecture whose packages are meant, as Debian names it. Each has a private apt of its own.
DEBIAN_ARCH=amd64

# The Debian mirror that this machine already uses, or the one that is named.
mirror() {
	if [ -n "${NETCONSOLE_EXT_MIRROR:-}" ]; then
		echo "$NETCONSOLE_EXT_MIRROR"
		return
	fi
	# shellcheck disable=SC2016
	apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' \
		'Origin: Debian' 'Label: Debian' 2>/dev/null | sed -n 1p
}

# The private apt's directory.
apt_directory() {
	local suffix=-$DEBIAN_ARCH
	echo "$CACHE/apt${suffix#-amd64}"
}

# Run one of apt's programs on the private set-up.
private_apt() {
	local tool=$1 d
	d=$(apt_directory)
	shift
	"$tool" -o Dir::Etc::SourceList="$d/sources.list" -o Dir::Etc::SourceParts=/dev/null \
		-o Dir::Etc::Parts=/dev/null -o Dir::Etc::Preferences=/dev/null \
		-o Dir::Etc::PreferencesParts=/dev/null -o Dir::State="$d/state" \
		-o Dir::Cache="$d/cache" -o Dir::State::status=/dev/null \
		-o APT::Architecture="$DEBIAN_ARCH" -o APT::Architectures="$DEBIAN_ARCH" -o APT::Sandbox::User=root \
		-o Acquire::Languages=none -o Acquire::Retries=3 -q "$@"
}

# Fetch the index of Debian 13 and its backports, once per run of a script.
apt_index() {
	[ "${APT_READY:-}" != "$DEBIAN_ARCH" ] || return 0
	local d key=/usr/share/keyrings/debian-archive-keyring.gpg url
	d=$(apt_directory)
	need apt-get:apt dpkg-deb:dpkg "$key:debian-archive-keyring"
	(
		lock index
		url=$(mirror)
		if [ -z "$url" ]; then
			# apt has no lists yet on a fresh image; it knows its sources only then.
			[ "$(id -u)" != 0 ] || apt-get update >/dev/null 2>&1 || true
			url=$(mirror)
		fi
		[ -n "$url" ] || die "no Debian mirror is set up here; name one: NETCONSOLE_EXT_MIRROR=<url>"
		mkdir -p "$d/state/lists/partial" "$d/cache/archives/partial"
		printf 'deb [signed-by=%s] %s %s main\n' "$key" "$url" trixie \
			"$key" "$url" trixie-backports >"$d/sources.list"
		say "reading Debian's package index for $DEBIAN_ARCH"
		private_apt apt-get update >"$d/update.log" 2>&1 ||
			{ cat "$d/update.log" >&2; die "apt-get update failed for $url"; }
	)
	APT_READY=$DEBIAN_ARCH
}

# Provide packages with all that they need, unpacked as $CACHE/NAME, and print
# where. Delete that directory for newer ones.
#   provide NAME PACKAGE...
provide() {
	local root=$CACHE/$1 plan packages
	shift
	[ -d "$root" ] || lock "${root##*/}"
	if [ ! -d "$root" ]; then
		apt_index
		# Nothing is installed as far as the private apt knows: that is all packages.
		plan=$(private_apt apt-get -s install --no-install-recommends "$@")
		mapfile -t packages < <(awk '$1 == "Inst" { print $2 }' <<<"$plan")
		[ ${#packages[@]} -gt 0 ] || die "Debian 13 has no $*"
		say "fetching Debian's $1"
		rm -rf "$root.tmp"
		unpack "$root.tmp" "${packages[@]}"
		mv "$root.tmp" "$root"
	fi
	echo "$root"
}

# Download packages ("name" or "name=version") and unpack them in DIR.
#   unpack DIR PACKAGE...
unpack() {
	local dir=$1 tmp=$1.debs deb
	shift
	apt_index
	rm -rf "$tmp"
	mkdir -p "$tmp" "$dir"
	(cd "$tmp" && private_apt apt-get download "$@" >"$tmp/log" 2>&1) ||
		{ cat "$tmp/log" >&2; die "could not download: $*"; }
	for deb in "$tmp"/*.deb; do
		dpkg-deb -x "$deb" "$dir"
	done
	rm -rf "$tmp"
}
