#compdef bootcctl
# SPDX-License-Identifier: Apache-2.0
# Written by tools/completions.py; do not edit.

_bootcctl_deployments() {
    local -a found=(booted default staged rollback ${(f)"$(bootcctl "${global[@]}" --quiet list --json 2>/dev/null | sed -n -e 's/^ *"id": "\(.\{12\}\).*/\1/p' -e 's/^ *"\(version\|label\)": "\([^" ]\{1,\}\)",*$/\2/p')"})
    compadd -a found
}

_bootcctl_composefs_measure() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--algorithm[hash (default\: sha512)]:value:(sha256 sha512)' \
        '*:file:_files'
}

_bootcctl_composefs_dump() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '*:file:_files'
}

_bootcctl_composefs_mkfs() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--from-dump[SOURCE is a composefs dump, '\''-'\'' for standard input]' \
        '--format[EROFS format (default\: v1)]:value:(v0 v1 v2)' \
        '--algorithm[hash (default\: sha512)]:value:(sha256 sha512)' \
        '--no-hardlinks[give each name in a directory an inode of its own, as mkcomposefs does]' \
        '--digest-only[print the digest and write nothing]' \
        '1:file:_files' \
        '*:file:_files'
}

_bootcctl_composefs() {
    local state line
    local -a verbs
    _arguments -s -C \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '1: :->verb' \
        '*:: :->rest'
    case $state in
        verb)
            verbs=(
                'mkfs:write an EROFS image of a directory or a dump'
                'dump:print an image as a composefs dump'
                'measure:print fs-verity digests of files'
            )
            _describe verb verbs ;;
        rest)
            case $line[1] in
                mkfs) _bootcctl_composefs_mkfs ;;
                dump) _bootcctl_composefs_dump ;;
                measure) _bootcctl_composefs_measure ;;
            esac ;;
    esac
}

_bootcctl_container_add_digests() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--way[in the image'\''s own manifest, which changes, or in an artifact about it (default\: annotations)]:value:(annotations artifact)' \
        '--algorithm[hash (default\: sha512)]:value:(sha256 sha512)' \
        '--json[print the result as JSON]' \
        '*:value: '
}

_bootcctl_container_from_rootfs() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--label[label of the image; may be repeated]:value: ' \
        '--compression[of the layer (default\: zstd)]:value:(zstd gzip none)' \
        '--created[when it was made, in ISO 8601 (default\: now)]:value: ' \
        '--architecture[as OCI calls it, such as arm64 (default\: that of this machine)]:value: ' \
        '--digests[where to state its composefs digests, as '\''add-digests'\'' does (default\: none)]:value:(none annotations artifact)' \
        '--json[print the result as JSON]' \
        '1:file:_files' \
        '*:value: '
}

_bootcctl_container_attach_uki() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--rootfs[root directory of the image (default\: /)]:directory:_files -/' \
        '--name[name in the image (default\: the kernel'\''s version)]:value: ' \
        '--allow-unsigned[take it without a signature]' \
        '--json[print the result as JSON]' \
        '*:file:_files'
}

_bootcctl_container_ukify() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--rootfs[root directory of the image (default\: /)]:directory:_files -/' \
        '--kernel-dir[what split-kernel has made (default\: the image itself)]:directory:_files -/' \
        '--output[file to write (default\: its place in the image)]:file:_files' \
        '--karg[kernel argument besides those of kargs.d; may be repeated]:value: ' \
        '--addon[make an addon with the --karg for the UKI of the image]:value: ' \
        '--format[EROFS format (default\: v1)]:value:(v0 v1 v2)' \
        '--algorithm[hash (default\: sha512)]:value:(sha256 sha512)' \
        '--allow-missing-verity[let it boot without fs-verity as well]' \
        '--whole-seconds[without fractions of seconds in times, as buildah and others store them]' \
        '--write-dumpfile[also write the tree that the digest is of, as a dump]:file:_files' \
        '--json[print the result as JSON]' \
        '*:value: '
}

_bootcctl_container_split_kernel() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--rootfs[root directory of the image (default\: /)]:directory:_files -/' \
        '--output[where to make a directory of the kernel'\''s version]:directory:_files -/'
}

_bootcctl_container_inspect() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--rootfs[root directory of the image; or the image itself\: its tar, oci\:DIR\[\:TAG\] and more (default\: /)]:file:_files' \
        '--json[print the result as JSON]'
}

_bootcctl_container_lint() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--rootfs[root directory of the image; or the image itself\: its tar, oci\:DIR\[\:TAG\] and more (default\: /)]:file:_files' \
        '--fatal-warnings[fail for warnings as well]' \
        '--skip[leave a lint out; may be repeated]:value: ' \
        '--esp-budget[how much of the boot partition the image may take]:value: ' \
        '--previous[the image that comes before this one]:file:_files' \
        '--allow-setuid[paths of programs that may be setuid; may be repeated]:value: ' \
        '--fix[take away what can be without harm, and look again]' \
        '--list[only tell which lints there are, and why]' \
        '--json[print the result as JSON]' \
        '--sarif[print the result as SARIF 2.1.0, for CI systems]'
}

_bootcctl_container_compute_digest() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--explain[tell what differs first between two of them, which may be composefs dumps as well; exit status 6 when they differ]:file:_files' \
        '--whole-seconds[of a directory\: without fractions of seconds in times, as buildah and others store them]' \
        '--write-dumpfile[also write the tree that the digest is of, as a dump]:file:_files' \
        '--format[EROFS format (default\: v1)]:value:(v0 v1 v2)' \
        '--algorithm[hash (default\: sha512)]:value:(sha256 sha512)' \
        '--xattrs[which xattrs count (default\: allowlist-only)]:value:(allowlist-only keep-user-xattrs)' \
        '--no-boot[the image as mounted, not as booted]' \
        '*:file:_files'
}

_bootcctl_container() {
    local state line
    local -a verbs
    _arguments -s -C \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '1: :->verb' \
        '*:: :->rest'
    case $state in
        verb)
            verbs=(
                'compute-digest:print the digest that a machine will compute for an image'
                'lint:look for what would keep an image from working'
                'inspect:show what the image would make a machine boot'
                'split-kernel:move kernel and initrd out of a root directory'
                'ukify:make a UKI, or an addon, for a root directory'
                'attach-uki:take a UKI, or an addon, that was signed elsewhere into a root directory'
                'from-rootfs:make an OCI image of a root directory, or of its tar'
                'add-digests:state the composefs digests of an image, which machines then check'
            )
            _describe verb verbs ;;
        rest)
            case $line[1] in
                compute-digest) _bootcctl_container_compute_digest ;;
                lint) _bootcctl_container_lint ;;
                inspect) _bootcctl_container_inspect ;;
                split-kernel) _bootcctl_container_split_kernel ;;
                ukify) _bootcctl_container_ukify ;;
                attach-uki) _bootcctl_container_attach_uki ;;
                from-rootfs) _bootcctl_container_from_rootfs ;;
                add-digests) _bootcctl_container_add_digests ;;
            esac ;;
    esac
}

_bootcctl_image_remove() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '*:value: '
}

_bootcctl_image_import_tar() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--json[print the result as JSON]' \
        '1:file:_files' \
        '*:value: '
}

_bootcctl_image_mount() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--bootable[the tree as a machine boots it, with /boot emptied]' \
        '1:value: ' \
        '*:directory:_files -/'
}

_bootcctl_image_inspect() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--json[print the result as JSON]' \
        '*:value: '
}

_bootcctl_image_list() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--json[print the result as JSON]'
}

_bootcctl_image_verify() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--json[print the result as JSON]' \
        '*:value: '
}

_bootcctl_image_pull() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--name[name in the repository (default\: the reference)]:value: ' \
        '--bootable[also make the image that a machine would boot]' \
        '--max-rate[download no more than that in a second, such as 500K]:value: ' \
        '--max-download[do nothing if more than that would have to be downloaded]:value: ' \
        '--background[nobody waits for it\: take CPU and disk only when they are idle]' \
        '--json[print the result as JSON]' \
        '*:value: '
}

_bootcctl_image() {
    local state line
    local -a verbs
    _arguments -s -C \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '1: :->verb' \
        '*:: :->rest'
    case $state in
        verb)
            verbs=(
                'pull:bring an image into the repository without deploying it'
                'verify:tell what the signature policy says of an image'
                'list:list the named images'
                'inspect:show one image'
                'mount:mount an image read-only'
                'import-tar:make an image of one layer from a tar file'
                'remove:forget the name of an image'
            )
            _describe verb verbs ;;
        rest)
            case $line[1] in
                pull) _bootcctl_image_pull ;;
                verify) _bootcctl_image_verify ;;
                list) _bootcctl_image_list ;;
                inspect) _bootcctl_image_inspect ;;
                mount) _bootcctl_image_mount ;;
                import-tar) _bootcctl_image_import_tar ;;
                remove) _bootcctl_image_remove ;;
            esac ;;
    esac
}

_bootcctl_kargs_reload() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--json[print the result as JSON]'
}

_bootcctl_kargs_replace() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--json[print the result as JSON]' \
        '1:value: ' \
        '*:value: '
}

_bootcctl_kargs_remove() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--json[print the result as JSON]' \
        '*:value: '
}

_bootcctl_kargs_add() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--json[print the result as JSON]' \
        '*:value: '
}

_bootcctl_kargs_show() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--json[print the result as JSON]'
}

_bootcctl_kargs() {
    local state line
    local -a verbs
    _arguments -s -C \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '1: :->verb' \
        '*:: :->rest'
    case $state in
        verb)
            verbs=(
                'show:show what the next boot has, and whose it is'
                'add:add arguments of this machine, which every upgrade keeps'
                'remove:remove arguments of this machine'
                'replace:put another argument in the place of one'
                'reload:take what the files in /etc/bootcd/kargs.d ask for by now'
            )
            _describe verb verbs ;;
        rest)
            case $line[1] in
                show) _bootcctl_kargs_show ;;
                add) _bootcctl_kargs_add ;;
                remove) _bootcctl_kargs_remove ;;
                replace) _bootcctl_kargs_replace ;;
                reload) _bootcctl_kargs_reload ;;
            esac ;;
    esac
}

_bootcctl_etc_rules() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--json[print the result as JSON]' \
        '*:file:_files'
}

_bootcctl_etc_reset() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(--dry-run -n)'{--dry-run,-n}'[only tell what would be done]' \
        '--json[print the result as JSON]' \
        '*:file:_files'
}

_bootcctl_etc_report() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--json[print the result as JSON]' \
        '*:deployment:_bootcctl_deployments'
}

_bootcctl_etc_diff() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--text[also show the lines of text files that differ]' \
        '--json[print the result as JSON]' \
        '*:deployment:_bootcctl_deployments'
}

_bootcctl_etc() {
    local state line
    local -a verbs
    _arguments -s -C \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '1: :->verb' \
        '*:: :->rest'
    case $state in
        verb)
            verbs=(
                'diff:show how /etc differs from that of the image'
                'report:show what the merge decided'
                'reset:set paths back to what the image has; the old ones stay aside'
                'rules:show the rules for the merge, and where they come from'
            )
            _describe verb verbs ;;
        rest)
            case $line[1] in
                diff) _bootcctl_etc_diff ;;
                report) _bootcctl_etc_report ;;
                reset) _bootcctl_etc_reset ;;
                rules) _bootcctl_etc_rules ;;
            esac ;;
    esac
}

_bootcctl_policy_cancel_reboot() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]'
}

_bootcctl_policy_run() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--json[print the result as JSON]'
}

_bootcctl_policy_explain() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--json[print the result as JSON]'
}

_bootcctl_policy_show() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--json[print the result as JSON]'
}

_bootcctl_policy() {
    local state line
    local -a verbs
    _arguments -s -C \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '1: :->verb' \
        '*:: :->rest'
    case $state in
        verb)
            verbs=(
                'show:show what would be done alone now, and what stands against the rest'
                'explain:tell what each gate of the policy sees and says'
                'run:do what is allowed and due now, as the timer has it done'
                'cancel-reboot:take back the reboot that the policy has planned'
            )
            _describe verb verbs ;;
        rest)
            case $line[1] in
                show) _bootcctl_policy_show ;;
                explain) _bootcctl_policy_explain ;;
                run) _bootcctl_policy_run ;;
                cancel-reboot) _bootcctl_policy_cancel_reboot ;;
            esac ;;
    esac
}

_bootcctl_health_check() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--report[also write the outcome there, as JSON]:file:_files' \
        '--json[print the result as JSON]'
}

_bootcctl_health_show() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--json[print the result as JSON]'
}

_bootcctl_health() {
    local state line
    local -a verbs
    _arguments -s -C \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '1: :->verb' \
        '*:: :->rest'
    case $state in
        verb)
            verbs=(
                'show:show the verdict on each deployment, with its reason'
                'check:run the health checks of the running system; nothing follows from it'
            )
            _describe verb verbs ;;
        rest)
            case $line[1] in
                show) _bootcctl_health_show ;;
                check) _bootcctl_health_check ;;
            esac ;;
    esac
}

_bootcctl_install_to_disk() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--wipe[erase what is on the disk; needed where there is anything]' \
        '(--dry-run -n)'{--dry-run,-n}'[only tell what would be erased and made]' \
        '--image-size[make the file, with this size]:value: ' \
        '--filesystem[root file system (default\: ext4)]:value:(ext4 btrfs)' \
        '--encrypt[encrypt the root file system, and print a recovery key (default\: none)]:value:(none recovery-key tpm2)' \
        '--esp-size[size of the boot partition (default\: by the image and the keep policy)]:value: ' \
        '--root-size[size of the root partition (default\: the rest of the disk)]:value: ' \
        '--karg[kernel argument of this machine, kept by every upgrade; may be repeated]:value: ' \
        '--root-ssh-authorized-keys[public keys that may log in as root]:file:_files' \
        '--from[read the image from there, such as oci\:/media/usb, and still follow the reference]:value: ' \
        '--json[print the result as JSON]' \
        '1:file:_files' \
        '*:value: '
}

_bootcctl_install_to_filesystem() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--karg[kernel argument of this machine, kept by every upgrade; may be repeated]:value: ' \
        '--from[read the image from there, such as oci\:/media/usb, and still follow the reference]:value: ' \
        '--json[print the result as JSON]' \
        '*:value: '
}

_bootcctl_install() {
    local state line
    local -a verbs
    _arguments -s -C \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '1: :->verb' \
        '*:: :->rest'
    case $state in
        verb)
            verbs=(
                'to-filesystem:install into --sysroot, with the ESP at --esp'
                'to-disk:erase a disk, or make a disk image, and install there'
            )
            _describe verb verbs ;;
        rest)
            case $line[1] in
                to-filesystem) _bootcctl_install_to_filesystem ;;
                to-disk) _bootcctl_install_to_disk ;;
            esac ;;
    esac
}

_bootcctl_adopt() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(--dry-run -n)'{--dry-run,-n}'[only tell what would be adopted]' \
        '--json[print the result as JSON]'
}

_bootcctl_hooks_run() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--notices[where the news is (default\: /run/bootcd/notices)]:directory:_files -/'
}

_bootcctl_hooks() {
    local state line
    local -a verbs
    _arguments -s -C \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '1: :->verb' \
        '*:: :->rest'
    case $state in
        verb)
            verbs=(
                'run:tell the hooks the news that waits for them'
            )
            _describe verb verbs ;;
        rest)
            case $line[1] in
                run) _bootcctl_hooks_run ;;
            esac ;;
    esac
}

_bootcctl_metrics() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]'
}

_bootcctl_cancel() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]'
}

_bootcctl_monitor() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--json[print each event as a JSON object on a line of its own]'
}

_bootcctl_fsck() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--repair[remove what is damaged and name what to pull again]' \
        '--metadata-only[do not read the contents of objects]' \
        '--background[nobody waits for it\: take CPU and disk only when they are idle]' \
        '--json[print the result as JSON]'
}

_bootcctl_cleanup() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '(--dry-run -n)'{--dry-run,-n}'[only tell what would go, and why]' \
        '--background[nobody waits for it\: take CPU and disk only when they are idle]' \
        '--json[print the result as JSON]'
}

_bootcctl_boot_failed() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--report[what '\''health check'\'' wrote there is the reason]:file:_files' \
        '--no-reboot[only tell that the machine should reboot]' \
        '--json[print the result as JSON]'
}

_bootcctl_boot_complete() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--json[print the result as JSON]'
}

_bootcctl_boot_started() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--json[print the result as JSON]'
}

_bootcctl_finalize() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--json[print the result as JSON]'
}

_bootcctl_reset() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--etc[/etc as the image has it; nothing local stays in it]' \
        '--state[the same, and /var as at installation]' \
        '(--dry-run -n)'{--dry-run,-n}'[only tell what would be done]' \
        '--json[print the result as JSON]'
}

_bootcctl_unstage() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--json[print the result as JSON]'
}

_bootcctl_unpin() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--label[only this pin; default\: all of the deployment]:value: ' \
        '--json[print the result as JSON]' \
        '*:deployment:_bootcctl_deployments'
}

_bootcctl_pin() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--label[why; also a name for the deployment]:value: ' \
        '--json[print the result as JSON]' \
        '*:deployment:_bootcctl_deployments'
}

_bootcctl_rollback() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--apply[reboot into it now]' \
        '--soft-reboot[with --apply\: keep the kernel running if that comes to the same as a reboot, or do not reboot at all (default\: no)]:value:(no auto required)' \
        '--json[print the result as JSON]' \
        '*:deployment:_bootcctl_deployments'
}

_bootcctl_switch() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--download-only[stage it, but let a later upgrade make it boot]' \
        '--apply[reboot into it now]' \
        '--soft-reboot[with --apply\: keep the kernel running if that comes to the same as a reboot, or do not reboot at all (default\: no)]:value:(no auto required)' \
        '--from[read the image from there, such as oci\:/media/usb, and still follow the reference]:value: ' \
        '--allow-untried[do not wait until the boot of the running deployment is complete]' \
        '--max-rate[download no more than that in a second, such as 500K]:value: ' \
        '--max-download[do nothing if more than that would have to be downloaded]:value: ' \
        '--background[nobody waits for it\: take CPU and disk only when they are idle]' \
        '--json[print the result as JSON]' \
        '*:value: '
}

_bootcctl_upgrade() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--check[only tell whether there is a newer image; exit status 77 when there is none]' \
        '--download-only[stage it, but let a later upgrade make it boot]' \
        '--apply[reboot into it now]' \
        '--soft-reboot[with --apply\: keep the kernel running if that comes to the same as a reboot, or do not reboot at all (default\: no)]:value:(no auto required)' \
        '--from[read the image from there, such as oci\:/media/usb, and still follow the reference]:value: ' \
        '--from-downloaded[let what --download-only has staged boot next, without asking the source]' \
        '--allow-rejected[take the image even if this machine was rolled back from it]' \
        '--allow-untried[do not wait until the boot of the running deployment is complete]' \
        '--allow-downgrade[take the image even if it is older than what runs]' \
        '--max-rate[download no more than that in a second, such as 500K]:value: ' \
        '--max-download[do nothing if more than that would have to be downloaded]:value: ' \
        '--background[nobody waits for it\: take CPU and disk only when they are idle]' \
        '--json[print the result as JSON]'
}

_bootcctl_doctor() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--offline[leave out what opens a connection]' \
        '--json[print the result as JSON]' \
        '*:value: '
}

_bootcctl_explain() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--json[print the result as JSON]' \
        '*:value:(default kept collect space verity)'
}

_bootcctl_list() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--json[print the result as JSON]'
}

_bootcctl_status() {
    _arguments -s \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--json[print the result as JSON]' \
        '--format[bootc-v1 is what '\''bootc status --json'\'' prints (default\: text)]:value:(text json bootc-v1)'
}

_bootcctl() {
    local state line
    local -a verbs
    local -a words_all=("${words[@]}") global
    _arguments -s -C \
        '(-h --help)'{-h,--help}'[show this help message and exit]' \
        '--version[show the version and exit]' \
        '--sysroot[physical root of the installation; bootcctl itself works on it then (default\: /sysroot, through the daemon if there is one)]:directory:_files -/' \
        '--esp[where its EFI system partition is mounted (default\: /efi, /boot/efi or /boot, with another --sysroot its efi, boot/efi, boot or esp)]:directory:_files -/' \
        '--config[read this file and no other bootcd.toml; the daemon is not asked]:file:_files' \
        '(--quiet -q)'{--quiet,-q}'[no progress, only results and errors]' \
        '--debug[log what is done; show where an error comes from]' \
        '1: :->verb' \
        '*:: :->rest'
    global=("${(@)words_all[2,$((${#words_all} - ${#words}))]}")
    case $state in
        verb)
            verbs=(
                'status:show the deployments, what boots next and which checks hold'
                'list:list the deployments, one line each'
                'explain:tell why\: what boots, what is kept or goes, where the room is'
                'doctor:tell how a pull of an image would go, step by step, and what to do'
                'upgrade:take the newest image of the tracked reference'
                'switch:follow another image reference from now on'
                'rollback:make another deployment the one that boots'
                'pin:keep a deployment, whatever the keep policy says'
                'unpin:take a pin off'
                'unstage:forget the staged deployment, or a reset that waits'
                'reset:let the same image start from a pristine /etc, or from no state at all'
                'finalize:make the staged deployment the default (to be done at shutdown)'
                'boot-started:count a boot of the running deployment, and notice a fallback'
                'boot-complete:remember that the running deployment has come up well'
                'boot-failed:judge the running deployment, whose boot failed, and do what follows'
                'cleanup:remove what the keep policy does not keep and nothing refers to'
                'fsck:check every object, stream and image'
                'monitor:follow what the daemon does, until Ctrl-C'
                'cancel:stop what the daemon works on'
                'metrics:print numbers about the machine for Prometheus'
                'hooks:programs that are told what happens'
                'adopt:take over a machine that bootc has installed with composefs'
                'install:make the first deployment'
                'health:whether deployments work here\: verdicts, and the checks that they come from'
                'policy:what this machine does without being asked, and when'
                'etc:explain /etc\: what differs from the image, what the merge decided, the way back'
                'kargs:show and change kernel arguments'
                'image:work with the images in the repository'
                'container:tools for building images'
                'composefs:plain composefs tools, for those who come from mkcomposefs'
            )
            _describe verb verbs ;;
        rest)
            case $line[1] in
                status) _bootcctl_status ;;
                list) _bootcctl_list ;;
                explain) _bootcctl_explain ;;
                doctor) _bootcctl_doctor ;;
                upgrade) _bootcctl_upgrade ;;
                switch) _bootcctl_switch ;;
                rollback) _bootcctl_rollback ;;
                pin) _bootcctl_pin ;;
                unpin) _bootcctl_unpin ;;
                unstage) _bootcctl_unstage ;;
                reset) _bootcctl_reset ;;
                finalize) _bootcctl_finalize ;;
                boot-started) _bootcctl_boot_started ;;
                boot-complete) _bootcctl_boot_complete ;;
                boot-failed) _bootcctl_boot_failed ;;
                cleanup) _bootcctl_cleanup ;;
                fsck) _bootcctl_fsck ;;
                monitor) _bootcctl_monitor ;;
                cancel) _bootcctl_cancel ;;
                metrics) _bootcctl_metrics ;;
                hooks) _bootcctl_hooks ;;
                adopt) _bootcctl_adopt ;;
                install) _bootcctl_install ;;
                health) _bootcctl_health ;;
                policy) _bootcctl_policy ;;
                etc) _bootcctl_etc ;;
                kargs) _bootcctl_kargs ;;
                image) _bootcctl_image ;;
                container) _bootcctl_container ;;
                composefs) _bootcctl_composefs ;;
            esac ;;
    esac
}

_bootcctl "$@"
