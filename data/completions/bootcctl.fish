# SPDX-License-Identifier: Apache-2.0
# Written by tools/completions.py; do not edit.
# The words of the verb, and with "global" what stands before it.
function __bootcctl_words
    set -l words
    set -l global
    set -l skip 0
    for word in (commandline -opc)[2..]
        if test $skip = 1
            set skip 0
        else if string match -q -- '-*' $word
            contains -- $word $__bootcctl_valued; and set skip 1
        else if test (count $words) = 0
            or begin
                test (count $words) = 1
                and contains -- $words[1] $__bootcctl_groups
            end
            set -a words $word
        end
        test (count $words) = 0; and set -a global $word
    end
    if test "$argv" = global
        set -q global[1]; and printf '%s\n' $global
    else
        printf '%s\n' $words
    end
end
# Succeeds when exactly these verbs stand on the command line so far.
function __bootcctl_at
    test (__bootcctl_words | string join ' ') = "$argv"
end
function __bootcctl_deployments
    string split ' ' -- 'booted default staged rollback'
    bootcctl (__bootcctl_words global) --quiet list --json 2>/dev/null | sed -n -e 's/^ *"id": "\(.\{12\}\).*/\1/p' -e 's/^ *"\(version\|label\)": "\([^" ]\{1,\}\)",*$/\2/p'
end
set -g __bootcctl_valued --algorithm --config --encrypt --esp --esp-size --filesystem --format --image-size --karg --label --name --report --root-size --root-ssh-authorized-keys --soft-reboot --sysroot --xattrs
set -g __bootcctl_groups install health etc image container composefs
complete -c bootcctl -f
complete -c bootcctl -n '__bootcctl_at ' -a status -d 'show the deployments, what boots next and which checks hold'
complete -c bootcctl -n '__bootcctl_at ' -a list -d 'list the deployments, one line each'
complete -c bootcctl -n '__bootcctl_at ' -a explain -d 'tell why: what boots, what is kept or goes, where the room is'
complete -c bootcctl -n '__bootcctl_at ' -a upgrade -d 'take the newest image of the tracked reference'
complete -c bootcctl -n '__bootcctl_at ' -a switch -d 'follow another image reference from now on'
complete -c bootcctl -n '__bootcctl_at ' -a rollback -d 'make another deployment the one that boots'
complete -c bootcctl -n '__bootcctl_at ' -a pin -d 'keep a deployment, whatever the keep policy says'
complete -c bootcctl -n '__bootcctl_at ' -a unpin -d 'take a pin off'
complete -c bootcctl -n '__bootcctl_at ' -a unstage -d 'forget the staged deployment'
complete -c bootcctl -n '__bootcctl_at ' -a finalize -d 'make the staged deployment the default (to be done at shutdown)'
complete -c bootcctl -n '__bootcctl_at ' -a boot-started -d 'count a boot of the running deployment, and notice a fallback'
complete -c bootcctl -n '__bootcctl_at ' -a boot-complete -d 'remember that the running deployment has come up well'
complete -c bootcctl -n '__bootcctl_at ' -a boot-failed -d 'judge the running deployment, whose boot failed, and do what follows'
complete -c bootcctl -n '__bootcctl_at ' -a cleanup -d 'remove what the keep policy does not keep and nothing refers to'
complete -c bootcctl -n '__bootcctl_at ' -a fsck -d 'check every object, stream and image'
complete -c bootcctl -n '__bootcctl_at ' -a monitor -d 'follow what the daemon does, until Ctrl-C'
complete -c bootcctl -n '__bootcctl_at ' -a install -d 'make the first deployment'
complete -c bootcctl -n '__bootcctl_at ' -a health -d 'whether deployments work here: verdicts, and the checks that they come from'
complete -c bootcctl -n '__bootcctl_at ' -a etc -d 'explain /etc: what differs from the image, what the merge decided, the way back'
complete -c bootcctl -n '__bootcctl_at ' -a image -d 'work with the images in the repository'
complete -c bootcctl -n '__bootcctl_at ' -a container -d 'tools for building images'
complete -c bootcctl -n '__bootcctl_at ' -a composefs -d 'plain composefs tools, for those who come from mkcomposefs'
complete -c bootcctl -n '__bootcctl_at ' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at ' -l version -d 'show the version and exit'
complete -c bootcctl -n '__bootcctl_at ' -l sysroot -r -a '(__fish_complete_directories)' -d 'physical root of the installation; bootcctl itself works on it then (default: /sysroot, through the daemon if there is one)'
complete -c bootcctl -n '__bootcctl_at ' -l esp -r -a '(__fish_complete_directories)' -d 'where its EFI system partition is mounted (default: /efi, /boot/efi or /boot, with another --sysroot its efi, boot/efi, boot or esp)'
complete -c bootcctl -n '__bootcctl_at ' -l config -r -F -d 'read this file and no other bootcd.toml; the daemon is not asked'
complete -c bootcctl -n '__bootcctl_at ' -l quiet -s q -d 'no progress, only results and errors'
complete -c bootcctl -n '__bootcctl_at ' -l debug -d 'log what is done; show where an error comes from'
complete -c bootcctl -n '__bootcctl_at status' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at status' -l json -d 'print the result as JSON'
complete -c bootcctl -n '__bootcctl_at list' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at list' -l json -d 'print the result as JSON'
complete -c bootcctl -n '__bootcctl_at explain' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at explain' -l json -d 'print the result as JSON'
complete -c bootcctl -n '__bootcctl_at explain' -a 'default kept collect space verity'
complete -c bootcctl -n '__bootcctl_at upgrade' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at upgrade' -l check -d 'only tell whether there is a newer image; exit status 77 when there is none'
complete -c bootcctl -n '__bootcctl_at upgrade' -l download-only -d 'stage it, but let a later upgrade make it boot'
complete -c bootcctl -n '__bootcctl_at upgrade' -l apply -d 'reboot into it now'
complete -c bootcctl -n '__bootcctl_at upgrade' -l soft-reboot -r -a 'no auto required' -d 'with --apply: keep the kernel running if that comes to the same as a reboot, or do not reboot at all (default: no)'
complete -c bootcctl -n '__bootcctl_at upgrade' -l allow-rejected -d 'take the image even if this machine was rolled back from it'
complete -c bootcctl -n '__bootcctl_at upgrade' -l allow-untried -d 'do not wait until the boot of the running deployment is complete'
complete -c bootcctl -n '__bootcctl_at upgrade' -l background -d 'nobody waits for it: take CPU and disk only when they are idle'
complete -c bootcctl -n '__bootcctl_at upgrade' -l json -d 'print the result as JSON'
complete -c bootcctl -n '__bootcctl_at switch' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at switch' -l download-only -d 'stage it, but let a later upgrade make it boot'
complete -c bootcctl -n '__bootcctl_at switch' -l apply -d 'reboot into it now'
complete -c bootcctl -n '__bootcctl_at switch' -l soft-reboot -r -a 'no auto required' -d 'with --apply: keep the kernel running if that comes to the same as a reboot, or do not reboot at all (default: no)'
complete -c bootcctl -n '__bootcctl_at switch' -l allow-untried -d 'do not wait until the boot of the running deployment is complete'
complete -c bootcctl -n '__bootcctl_at switch' -l background -d 'nobody waits for it: take CPU and disk only when they are idle'
complete -c bootcctl -n '__bootcctl_at switch' -l json -d 'print the result as JSON'
complete -c bootcctl -n '__bootcctl_at rollback' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at rollback' -l apply -d 'reboot into it now'
complete -c bootcctl -n '__bootcctl_at rollback' -l soft-reboot -r -a 'no auto required' -d 'with --apply: keep the kernel running if that comes to the same as a reboot, or do not reboot at all (default: no)'
complete -c bootcctl -n '__bootcctl_at rollback' -l json -d 'print the result as JSON'
complete -c bootcctl -n '__bootcctl_at rollback' -a '(__bootcctl_deployments)'
complete -c bootcctl -n '__bootcctl_at pin' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at pin' -l label -r -d 'why; also a name for the deployment'
complete -c bootcctl -n '__bootcctl_at pin' -l json -d 'print the result as JSON'
complete -c bootcctl -n '__bootcctl_at pin' -a '(__bootcctl_deployments)'
complete -c bootcctl -n '__bootcctl_at unpin' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at unpin' -l label -r -d 'only this pin; default: all of the deployment'
complete -c bootcctl -n '__bootcctl_at unpin' -l json -d 'print the result as JSON'
complete -c bootcctl -n '__bootcctl_at unpin' -a '(__bootcctl_deployments)'
complete -c bootcctl -n '__bootcctl_at unstage' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at unstage' -l json -d 'print the result as JSON'
complete -c bootcctl -n '__bootcctl_at finalize' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at finalize' -l json -d 'print the result as JSON'
complete -c bootcctl -n '__bootcctl_at boot-started' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at boot-started' -l json -d 'print the result as JSON'
complete -c bootcctl -n '__bootcctl_at boot-complete' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at boot-complete' -l json -d 'print the result as JSON'
complete -c bootcctl -n '__bootcctl_at boot-failed' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at boot-failed' -l report -r -F -d 'what \'health check\' wrote there is the reason'
complete -c bootcctl -n '__bootcctl_at boot-failed' -l no-reboot -d 'only tell that the machine should reboot'
complete -c bootcctl -n '__bootcctl_at boot-failed' -l json -d 'print the result as JSON'
complete -c bootcctl -n '__bootcctl_at cleanup' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at cleanup' -l dry-run -s n -d 'only tell what would go, and why'
complete -c bootcctl -n '__bootcctl_at cleanup' -l background -d 'nobody waits for it: take CPU and disk only when they are idle'
complete -c bootcctl -n '__bootcctl_at cleanup' -l json -d 'print the result as JSON'
complete -c bootcctl -n '__bootcctl_at fsck' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at fsck' -l repair -d 'remove what is damaged and name what to pull again'
complete -c bootcctl -n '__bootcctl_at fsck' -l metadata-only -d 'do not read the contents of objects'
complete -c bootcctl -n '__bootcctl_at fsck' -l background -d 'nobody waits for it: take CPU and disk only when they are idle'
complete -c bootcctl -n '__bootcctl_at fsck' -l json -d 'print the result as JSON'
complete -c bootcctl -n '__bootcctl_at monitor' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at monitor' -l json -d 'print each event as a JSON object on a line of its own'
complete -c bootcctl -n '__bootcctl_at install' -a to-filesystem -d 'install into --sysroot, with the ESP at --esp'
complete -c bootcctl -n '__bootcctl_at install' -a to-disk -d 'erase a disk, or make a disk image, and install there'
complete -c bootcctl -n '__bootcctl_at install' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at install to-filesystem' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at install to-filesystem' -l karg -r -d 'kernel argument of this machine, kept by every upgrade; may be repeated'
complete -c bootcctl -n '__bootcctl_at install to-filesystem' -l json -d 'print the result as JSON'
complete -c bootcctl -n '__bootcctl_at install to-disk' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at install to-disk' -l wipe -d 'erase what is on the disk; needed where there is anything'
complete -c bootcctl -n '__bootcctl_at install to-disk' -l dry-run -s n -d 'only tell what would be erased and made'
complete -c bootcctl -n '__bootcctl_at install to-disk' -l image-size -r -d 'make the file, with this size'
complete -c bootcctl -n '__bootcctl_at install to-disk' -l filesystem -r -a 'ext4 btrfs' -d 'root file system (default: ext4)'
complete -c bootcctl -n '__bootcctl_at install to-disk' -l encrypt -r -a 'none recovery-key tpm2' -d 'encrypt the root file system, and print a recovery key (default: none)'
complete -c bootcctl -n '__bootcctl_at install to-disk' -l esp-size -r -d 'size of the boot partition (default: by the image and the keep policy)'
complete -c bootcctl -n '__bootcctl_at install to-disk' -l root-size -r -d 'size of the root partition (default: the rest of the disk)'
complete -c bootcctl -n '__bootcctl_at install to-disk' -l karg -r -d 'kernel argument of this machine, kept by every upgrade; may be repeated'
complete -c bootcctl -n '__bootcctl_at install to-disk' -l root-ssh-authorized-keys -r -F -d 'public keys that may log in as root'
complete -c bootcctl -n '__bootcctl_at install to-disk' -l json -d 'print the result as JSON'
complete -c bootcctl -n '__bootcctl_at install to-disk' -F
complete -c bootcctl -n '__bootcctl_at health' -a show -d 'show the verdict on each deployment, with its reason'
complete -c bootcctl -n '__bootcctl_at health' -a check -d 'run the health checks of the running system; nothing follows from it'
complete -c bootcctl -n '__bootcctl_at health' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at health show' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at health show' -l json -d 'print the result as JSON'
complete -c bootcctl -n '__bootcctl_at health check' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at health check' -l report -r -F -d 'also write the outcome there, as JSON'
complete -c bootcctl -n '__bootcctl_at health check' -l json -d 'print the result as JSON'
complete -c bootcctl -n '__bootcctl_at etc' -a diff -d 'show how /etc differs from that of the image'
complete -c bootcctl -n '__bootcctl_at etc' -a report -d 'show what the merge decided'
complete -c bootcctl -n '__bootcctl_at etc' -a reset -d 'set paths back to what the image has; the old ones stay aside'
complete -c bootcctl -n '__bootcctl_at etc' -a rules -d 'show the rules for the merge, and where they come from'
complete -c bootcctl -n '__bootcctl_at etc' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at etc diff' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at etc diff' -l text -d 'also show the lines of text files that differ'
complete -c bootcctl -n '__bootcctl_at etc diff' -l json -d 'print the result as JSON'
complete -c bootcctl -n '__bootcctl_at etc diff' -a '(__bootcctl_deployments)'
complete -c bootcctl -n '__bootcctl_at etc report' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at etc report' -l json -d 'print the result as JSON'
complete -c bootcctl -n '__bootcctl_at etc report' -a '(__bootcctl_deployments)'
complete -c bootcctl -n '__bootcctl_at etc reset' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at etc reset' -l dry-run -s n -d 'only tell what would be done'
complete -c bootcctl -n '__bootcctl_at etc reset' -l json -d 'print the result as JSON'
complete -c bootcctl -n '__bootcctl_at etc reset' -F
complete -c bootcctl -n '__bootcctl_at etc rules' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at etc rules' -l json -d 'print the result as JSON'
complete -c bootcctl -n '__bootcctl_at etc rules' -F
complete -c bootcctl -n '__bootcctl_at image' -a pull -d 'bring an image into the repository without deploying it'
complete -c bootcctl -n '__bootcctl_at image' -a list -d 'list the named images'
complete -c bootcctl -n '__bootcctl_at image' -a inspect -d 'show one image'
complete -c bootcctl -n '__bootcctl_at image' -a mount -d 'mount an image read-only'
complete -c bootcctl -n '__bootcctl_at image' -a import-tar -d 'make an image of one layer from a tar file'
complete -c bootcctl -n '__bootcctl_at image' -a remove -d 'forget the name of an image'
complete -c bootcctl -n '__bootcctl_at image' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at image pull' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at image pull' -l name -r -d 'name in the repository (default: the reference)'
complete -c bootcctl -n '__bootcctl_at image pull' -l bootable -d 'also make the image that a machine would boot'
complete -c bootcctl -n '__bootcctl_at image pull' -l background -d 'nobody waits for it: take CPU and disk only when they are idle'
complete -c bootcctl -n '__bootcctl_at image pull' -l json -d 'print the result as JSON'
complete -c bootcctl -n '__bootcctl_at image list' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at image list' -l json -d 'print the result as JSON'
complete -c bootcctl -n '__bootcctl_at image inspect' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at image inspect' -l json -d 'print the result as JSON'
complete -c bootcctl -n '__bootcctl_at image mount' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at image mount' -l bootable -d 'the tree as a machine boots it, with /boot emptied'
complete -c bootcctl -n '__bootcctl_at image mount' -a '(__fish_complete_directories)'
complete -c bootcctl -n '__bootcctl_at image import-tar' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at image import-tar' -l json -d 'print the result as JSON'
complete -c bootcctl -n '__bootcctl_at image import-tar' -F
complete -c bootcctl -n '__bootcctl_at image remove' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at container' -a compute-digest -d 'print the digest that a machine will compute for a root directory'
complete -c bootcctl -n '__bootcctl_at container' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at container compute-digest' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at container compute-digest' -l format -r -a 'v0 v1 v2' -d 'EROFS format (default: v1)'
complete -c bootcctl -n '__bootcctl_at container compute-digest' -l algorithm -r -a 'sha256 sha512' -d 'hash (default: sha512)'
complete -c bootcctl -n '__bootcctl_at container compute-digest' -l xattrs -r -a 'allowlist-only keep-user-xattrs' -d 'which xattrs count (default: allowlist-only)'
complete -c bootcctl -n '__bootcctl_at container compute-digest' -l no-boot -d 'the image as mounted, not as booted'
complete -c bootcctl -n '__bootcctl_at container compute-digest' -a '(__fish_complete_directories)'
complete -c bootcctl -n '__bootcctl_at composefs' -a mkfs -d 'write an EROFS image of a directory or a dump'
complete -c bootcctl -n '__bootcctl_at composefs' -a dump -d 'print an image as a composefs dump'
complete -c bootcctl -n '__bootcctl_at composefs' -a measure -d 'print fs-verity digests of files'
complete -c bootcctl -n '__bootcctl_at composefs' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at composefs mkfs' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at composefs mkfs' -l from-dump -d 'SOURCE is a composefs dump, \'-\' for standard input'
complete -c bootcctl -n '__bootcctl_at composefs mkfs' -l format -r -a 'v0 v1 v2' -d 'EROFS format (default: v1)'
complete -c bootcctl -n '__bootcctl_at composefs mkfs' -l algorithm -r -a 'sha256 sha512' -d 'hash (default: sha512)'
complete -c bootcctl -n '__bootcctl_at composefs mkfs' -l no-hardlinks -d 'give each name in a directory an inode of its own, as mkcomposefs does'
complete -c bootcctl -n '__bootcctl_at composefs mkfs' -l digest-only -d 'print the digest and write nothing'
complete -c bootcctl -n '__bootcctl_at composefs mkfs' -F
complete -c bootcctl -n '__bootcctl_at composefs dump' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at composefs dump' -F
complete -c bootcctl -n '__bootcctl_at composefs measure' -s h -l help -d 'show this help message and exit'
complete -c bootcctl -n '__bootcctl_at composefs measure' -l algorithm -r -a 'sha256 sha512' -d 'hash (default: sha512)'
complete -c bootcctl -n '__bootcctl_at composefs measure' -F
