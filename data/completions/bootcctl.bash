# SPDX-License-Identifier: Apache-2.0
# Written by tools/completions.py; do not edit.
_bootcctl() {
    local current=${COMP_WORDS[COMP_CWORD]} path=. word index skip= kind=
    local -a given=() global=() kinds=()
    local -A verbs=(
        [.]='status list explain doctor upgrade switch rollback pin unpin unstage reset finalize boot-started boot-complete boot-failed cleanup fsck monitor cancel metrics hooks adopt install health policy etc kargs image container composefs'
        [.hooks.]='run'
        [.install.]='to-filesystem to-disk'
        [.health.]='show check'
        [.policy.]='show explain run cancel-reboot'
        [.etc.]='diff report reset rules'
        [.kargs.]='show add remove replace reload'
        [.image.]='pull verify list inspect mount import-tar remove'
        [.container.]='compute-digest lint inspect split-kernel ukify attach-uki from-rootfs add-digests'
        [.composefs.]='mkfs dump measure'
    ) options=(
        [.]='-h --help --version --sysroot --esp --config --quiet -q --debug'
        [.status.]='-h --help --json --format'
        [.list.]='-h --help --json'
        [.explain.]='-h --help --json'
        [.doctor.]='-h --help --offline --json'
        [.upgrade.]='-h --help --check --download-only --apply --soft-reboot --from --from-downloaded --allow-rejected --allow-untried --allow-downgrade --max-rate --max-download --background --json'
        [.switch.]='-h --help --download-only --apply --soft-reboot --from --allow-untried --max-rate --max-download --background --json'
        [.rollback.]='-h --help --apply --soft-reboot --json'
        [.pin.]='-h --help --label --json'
        [.unpin.]='-h --help --label --json'
        [.unstage.]='-h --help --json'
        [.reset.]='-h --help --etc --state --dry-run -n --json'
        [.finalize.]='-h --help --json'
        [.boot-started.]='-h --help --json'
        [.boot-complete.]='-h --help --json'
        [.boot-failed.]='-h --help --report --no-reboot --json'
        [.cleanup.]='-h --help --dry-run -n --background --json'
        [.fsck.]='-h --help --repair --metadata-only --background --json'
        [.monitor.]='-h --help --json'
        [.cancel.]='-h --help'
        [.metrics.]='-h --help'
        [.hooks.]='-h --help'
        [.hooks.run.]='-h --help --notices'
        [.adopt.]='-h --help --dry-run -n --json'
        [.install.]='-h --help'
        [.install.to-filesystem.]='-h --help --karg --from --json'
        [.install.to-disk.]='-h --help --wipe --dry-run -n --image-size --filesystem --encrypt --esp-size --root-size --karg --root-ssh-authorized-keys --from --json'
        [.health.]='-h --help'
        [.health.show.]='-h --help --json'
        [.health.check.]='-h --help --report --json'
        [.policy.]='-h --help'
        [.policy.show.]='-h --help --json'
        [.policy.explain.]='-h --help --json'
        [.policy.run.]='-h --help --json'
        [.policy.cancel-reboot.]='-h --help'
        [.etc.]='-h --help'
        [.etc.diff.]='-h --help --text --json'
        [.etc.report.]='-h --help --json'
        [.etc.reset.]='-h --help --dry-run -n --json'
        [.etc.rules.]='-h --help --json'
        [.kargs.]='-h --help'
        [.kargs.show.]='-h --help --json'
        [.kargs.add.]='-h --help --json'
        [.kargs.remove.]='-h --help --json'
        [.kargs.replace.]='-h --help --json'
        [.kargs.reload.]='-h --help --json'
        [.image.]='-h --help'
        [.image.pull.]='-h --help --name --bootable --max-rate --max-download --background --json'
        [.image.verify.]='-h --help --json'
        [.image.list.]='-h --help --json'
        [.image.inspect.]='-h --help --json'
        [.image.mount.]='-h --help --bootable'
        [.image.import-tar.]='-h --help --json'
        [.image.remove.]='-h --help'
        [.container.]='-h --help'
        [.container.compute-digest.]='-h --help --explain --whole-seconds --write-dumpfile --format --algorithm --xattrs --no-boot'
        [.container.lint.]='-h --help --rootfs --fatal-warnings --skip --esp-budget --previous --allow-setuid --fix --list --json --sarif'
        [.container.inspect.]='-h --help --rootfs --json'
        [.container.split-kernel.]='-h --help --rootfs --output'
        [.container.ukify.]='-h --help --rootfs --kernel-dir --output --karg --addon --format --algorithm --allow-missing-verity --whole-seconds --write-dumpfile --json'
        [.container.attach-uki.]='-h --help --rootfs --name --allow-unsigned --json'
        [.container.from-rootfs.]='-h --help --label --compression --created --architecture --digests --json'
        [.container.add-digests.]='-h --help --way --algorithm --json'
        [.composefs.]='-h --help'
        [.composefs.mkfs.]='-h --help --from-dump --format --algorithm --no-hardlinks --digest-only'
        [.composefs.dump.]='-h --help'
        [.composefs.measure.]='-h --help --algorithm'
    ) values=(
        [.explain.]='default kept collect space verity'
        [.doctor.]='text'
        [.switch.]='text'
        [.rollback.]='deployments'
        [.pin.]='deployments'
        [.unpin.]='deployments'
        [.install.to-filesystem.]='text'
        [.install.to-disk.]='files text'
        [.etc.diff.]='deployments'
        [.etc.report.]='deployments'
        [.etc.reset.]='files'
        [.etc.rules.]='files'
        [.kargs.add.]='text'
        [.kargs.remove.]='text'
        [.kargs.replace.]='text text'
        [.image.pull.]='text'
        [.image.verify.]='text'
        [.image.inspect.]='text'
        [.image.mount.]='text directories'
        [.image.import-tar.]='files text'
        [.image.remove.]='text'
        [.container.compute-digest.]='files'
        [.container.ukify.]='text'
        [.container.attach-uki.]='files'
        [.container.from-rootfs.]='files text'
        [.container.add-digests.]='text'
        [.composefs.mkfs.]='files files'
        [.composefs.dump.]='files'
        [.composefs.measure.]='files'
    ) option_values=(
        [--addon]='text'
        [--algorithm]='sha256 sha512'
        [--allow-setuid]='text'
        [--architecture]='text'
        [--compression]='zstd gzip none'
        [--config]='files'
        [--created]='text'
        [--digests]='none annotations artifact'
        [--encrypt]='none recovery-key tpm2'
        [--esp]='directories'
        [--esp-budget]='text'
        [--esp-size]='text'
        [--explain]='files'
        [--filesystem]='ext4 btrfs'
        [--format]='v0 v1 v2'
        [--from]='text'
        [--image-size]='text'
        [--karg]='text'
        [--kernel-dir]='directories'
        [--label]='text'
        [--max-download]='text'
        [--max-rate]='text'
        [--name]='text'
        [--notices]='directories'
        [--output]='files'
        [--previous]='files'
        [--report]='files'
        [--root-size]='text'
        [--root-ssh-authorized-keys]='files'
        [--rootfs]='directories'
        [--skip]='text'
        [--soft-reboot]='no auto required'
        [--sysroot]='directories'
        [--way]='annotations artifact'
        [--write-dumpfile]='files'
        [--xattrs]='allowlist-only keep-user-xattrs'
    )
    for ((index = 1; index < COMP_CWORD; index++)); do
        word=${COMP_WORDS[index]}
        [[ $path == . ]] && global+=("$word")
        if [[ $word == = && $skip ]]; then
            continue
        elif [[ $skip ]]; then
            skip=
        elif [[ $word == -* ]]; then
            skip=${option_values[$word]-}
        elif [[ " ${verbs[$path]-} " == *" $word "* ]]; then
            [[ $path == . ]] && unset 'global[-1]'
            path+=$word.
        else
            given+=("$word")
        fi
    done
    [[ $current == = && $skip ]] && current=
    if [[ $skip ]]; then
        kind=$skip
    elif [[ $current == -* ]]; then
        kind=${options[$path]-}
    elif [[ ${verbs[$path]-} ]]; then
        kind=${verbs[$path]}
    else
        read -ra kinds <<< "${values[$path]-}"
        index=${#given[@]}
        ((index < ${#kinds[@]})) || index=$((${#kinds[@]} - 1))
        ((index < 0)) || kind=${kinds[index]}
    fi
    case $kind in
        directories) mapfile -t COMPREPLY < <(compgen -d -- "$current"); compopt -o filenames ;;
        files) mapfile -t COMPREPLY < <(compgen -f -- "$current"); compopt -o filenames ;;
        deployments) mapfile -t COMPREPLY < <(compgen -W "booted default staged rollback $(_bootcctl_deployments)" -- "$current") ;;
        text) COMPREPLY=() ;;
        *) mapfile -t COMPREPLY < <(compgen -W "$kind" -- "$current") ;;
    esac
}
_bootcctl_deployments() {
    "${COMP_WORDS[0]}" "${global[@]}" --quiet list --json 2>/dev/null | sed -n -e 's/^ *"id": "\(.\{12\}\).*/\1/p' -e 's/^ *"\(version\|label\)": "\([^" ]\{1,\}\)",*$/\2/p'
}
complete -F _bootcctl bootcctl
