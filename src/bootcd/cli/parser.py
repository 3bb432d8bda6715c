# SPDX-License-Identifier: Apache-2.0
"""The command line of `bootcctl`: verbs, options and their help. Nothing here does anything."""

from __future__ import annotations

import argparse
from typing import Any

from .. import __version__
from ..errors import UsageError
from ..model import ENCRYPTIONS, FILESYSTEMS, SOFT_REBOOTS, parse_size
from .arguments import Parser
from .container_parser import add_verbs

_EPILOG = "Exit status and all details: man bootcctl."


def build_parser() -> argparse.ArgumentParser:
    """The whole parser. After parsing, `command` names the function to call as `module:function`."""
    parser = Parser(prog="bootcctl", description="Keep a machine on the operating system that a container image "
                     "describes.", epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"bootcctl {__version__}",
                        help="show the version and exit")
    _everywhere(parser)
    parser.set_defaults(sysroot=None, esp=None, config=None, quiet=False, debug=False)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", parser_class=Parser)

    def verb(name: str, command: str, help: str, to: Any = verbs) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = to.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        made.set_defaults(command=command)
        _everywhere(made, hidden=True)
        return made

    def group(name: str, help: str) -> Any:
        made = verbs.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        return made.add_subparsers(title="verbs", metavar="VERB", parser_class=Parser)

    status = verb("status", "commands:status", "show the deployments, what boots next and which checks hold")
    how = status.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print the result as JSON")
    how.add_argument("--format", choices=("text", "json", "bootc-v1"), default="text",
                     help="bootc-v1 is what 'bootc status --json' prints (default: %(default)s)")
    listing = verb("list", "commands:list_deployments", "list the deployments, one line each")
    _json(listing)

    explain = verb("explain", "commands:explain", "tell why: what boots, what is kept or goes, where the room is")
    explain.add_argument("topic", metavar="TOPIC", choices=("default", "kept", "collect", "space", "verity"),
                         help="default, kept, collect, space or verity")
    _json(explain)

    doctor = verb("doctor", "commands:doctor", "tell how a pull of an image would go, step by step, and what to do")
    doctor.add_argument("image", metavar="REFERENCE", help=_IMAGE_HELP)
    doctor.add_argument("--offline", action="store_true", help="leave out what opens a connection")
    _json(doctor)

    upgrade = verb("upgrade", "commands:upgrade", "take the newest image of the tracked reference")
    how = upgrade.add_mutually_exclusive_group()
    how.add_argument("--check", action="store_true",
                     help="only tell whether there is a newer image; exit status 77 when there is none")
    how.add_argument("--download-only", action="store_true", help="stage it, but let a later upgrade make it boot")
    _apply(upgrade, how)
    _from(upgrade)
    upgrade.add_argument("--from-downloaded", action="store_true",
                         help="let what --download-only has staged boot next, without asking the source")
    upgrade.add_argument("--allow-rejected", action="store_true",
                         help="take the image even if this machine was rolled back from it")
    _allow_untried(upgrade)
    upgrade.add_argument("--allow-downgrade", action="store_true",
                         help="take the image even if it is older than what runs")
    _limits(upgrade)
    _background(upgrade)
    _json(upgrade)
    switch = verb("switch", "commands:switch", "follow another image reference from now on")
    switch.add_argument("image", metavar="IMAGE", help=_IMAGE_HELP)
    how = switch.add_mutually_exclusive_group()
    how.add_argument("--download-only", action="store_true", help="stage it, but let a later upgrade make it boot")
    _apply(switch, how)
    _from(switch)
    _allow_untried(switch)
    _limits(switch)
    _background(switch)
    _json(switch)
    rollback = verb("rollback", "commands:rollback", "make another deployment the one that boots")
    rollback.add_argument("deployment", metavar="DEPLOYMENT", nargs="?", help=f"default: the previous one; {_WHICH}")
    _apply(rollback, rollback)
    _json(rollback)
    pin = verb("pin", "commands:pin", "keep a deployment, whatever the keep policy says")
    pin.add_argument("deployment", metavar="DEPLOYMENT", help=_WHICH)
    pin.add_argument("--label", default="", help="why; also a name for the deployment")
    _json(pin)
    unpin = verb("unpin", "commands:unpin", "take a pin off")
    unpin.add_argument("deployment", metavar="DEPLOYMENT", help=_WHICH)
    unpin.add_argument("--label", help="only this pin; default: all of the deployment")
    _json(unpin)
    _json(verb("unstage", "commands:unstage", "forget the staged deployment, or a reset that waits"))
    reset = verb("reset", "commands:reset", "let the same image start from a pristine /etc, or from no state at all")
    how = reset.add_mutually_exclusive_group(required=True)
    how.add_argument("--etc", action="store_true", help="/etc as the image has it; nothing local stays in it")
    how.add_argument("--state", action="store_true", help="the same, and /var as at installation")
    reset.add_argument("--dry-run", "-n", action="store_true", help="only tell what would be done")
    _json(reset)
    _json(verb("finalize", "commands:finalize", "make the staged deployment the default (to be done at shutdown)"))
    _json(verb("boot-started", "health_commands:boot_started", "count a boot of the running deployment, and notice a "
               "fallback"))
    _json(verb("boot-complete", "health_commands:boot_complete", "remember that the running deployment has come up "
               "well"))
    failed = verb("boot-failed", "health_commands:boot_failed", "judge the running deployment, whose boot failed, and "
                  "do what follows")
    failed.add_argument("--report", metavar="FILE", help="what 'health check' wrote there is the reason")
    failed.add_argument("--no-reboot", action="store_true", help="only tell that the machine should reboot")
    _json(failed)
    cleanup = verb("cleanup", "commands:cleanup", "remove what the keep policy does not keep and nothing refers to")
    cleanup.add_argument("--dry-run", "-n", action="store_true", help="only tell what would go, and why")
    _background(cleanup)
    _json(cleanup)
    fsck = verb("fsck", "commands:fsck", "check every object, stream and image")
    fsck.add_argument("--repair", action="store_true", help="remove what is damaged and name what to pull again")
    fsck.add_argument("--metadata-only", action="store_true", help="do not read the contents of objects")
    _background(fsck)
    _json(fsck)

    monitor = verb("monitor", "monitor:monitor", "follow what the daemon does, until Ctrl-C")
    monitor.add_argument("--json", action="store_true", help="print each event as a JSON object on a line of its own")

    verb("cancel", "commands:cancel", "stop what the daemon works on")

    verb("metrics", "notice_commands:metrics", "print numbers about the machine for Prometheus")
    hooks = group("hooks", "programs that are told what happens")
    run = verb("run", "notice_commands:run_hooks", "tell the hooks the news that waits for them", hooks)
    run.add_argument("--notices", metavar="DIR", default="/run/bootcd/notices",
                     help="where the news is (default: %(default)s)")

    adopt = verb("adopt", "commands:adopt", "take over a machine that bootc has installed with composefs")
    adopt.add_argument("--dry-run", "-n", action="store_true", help="only tell what would be adopted")
    _json(adopt)

    install = group("install", "make the first deployment")
    filesystem = verb("to-filesystem", "commands:install", "install into --sysroot, with the ESP at --esp", install)
    filesystem.add_argument("image", metavar="IMAGE", help=_IMAGE_HELP)
    filesystem.add_argument("--karg", action="append", default=[], metavar="ARG",
                            help="kernel argument of this machine, kept by every upgrade; may be repeated")
    _from(filesystem)
    _json(filesystem)

    disk = verb("to-disk", "commands:install_to_disk", "erase a disk, or make a disk image, and install there", install)
    disk.add_argument("disk", metavar="DISK", help="block device, or file")
    disk.add_argument("image", metavar="IMAGE", help=_IMAGE_HELP)
    disk.add_argument("--wipe", action="store_true", help="erase what is on the disk; needed where there is anything")
    disk.add_argument("--dry-run", "-n", action="store_true", help="only tell what would be erased and made")
    disk.add_argument("--image-size", type=_size, metavar="SIZE", help="make the file, with this size")
    disk.add_argument("--filesystem", choices=FILESYSTEMS, default="ext4",
                      help="root file system (default: %(default)s)")
    disk.add_argument("--encrypt", choices=ENCRYPTIONS, default="none",
                      help="encrypt the root file system, and print a recovery key (default: %(default)s)")
    disk.add_argument("--esp-size", type=_size, metavar="SIZE",
                      help="size of the boot partition (default: by the image and the keep policy)")
    disk.add_argument("--root-size", type=_size, metavar="SIZE",
                      help="size of the root partition (default: the rest of the disk)")
    disk.add_argument("--karg", action="append", default=[], metavar="ARG",
                      help="kernel argument of this machine, kept by every upgrade; may be repeated")
    disk.add_argument("--root-ssh-authorized-keys", default="", metavar="FILE", help="public keys that may log in as "
                      "root")
    _from(disk)
    _json(disk)

    health = group("health", "whether deployments work here: verdicts, and the checks that they come from")
    _json(verb("show", "health_commands:show", "show the verdict on each deployment, with its reason", health))
    check = verb("check", "health_commands:check", "run the health checks of the running system; nothing follows from "
                 "it", health)
    check.add_argument("--report", metavar="FILE", help="also write the outcome there, as JSON")
    _json(check)

    policy = group("policy", "what this machine does without being asked, and when")
    _json(verb("show", "policy_commands:show", "show what would be done alone now, and what stands against the rest",
               policy))
    _json(verb("explain", "policy_commands:explain", "tell what each gate of the policy sees and says", policy))
    _json(verb("run", "policy_commands:run", "do what is allowed and due now, as the timer has it done", policy))
    verb("cancel-reboot", "policy_commands:cancel_reboot", "take back the reboot that the policy has planned", policy)

    etc = group("etc", "explain /etc: what differs from the image, what the merge decided, the way back")
    diff = verb("diff", "etc_commands:diff", "show how /etc differs from that of the image", etc)
    diff.add_argument("deployment", metavar="DEPLOYMENT", nargs="?", help=f"default: the running one; {_WHICH}")
    diff.add_argument("--text", action="store_true", help="also show the lines of text files that differ")
    _json(diff)
    report = verb("report", "etc_commands:report", "show what the merge decided", etc)
    report.add_argument("deployment", metavar="DEPLOYMENT", nargs="?",
                        help=f"default: the staged one, else the running one; {_WHICH}")
    _json(report)
    reset = verb("reset", "etc_commands:reset", "set paths back to what the image has; the old ones stay aside", etc)
    reset.add_argument("paths", metavar="PATH", nargs="+", help="below /etc; absolute, or relative to /etc")
    reset.add_argument("--dry-run", "-n", action="store_true", help="only tell what would be done")
    _json(reset)
    rules = verb("rules", "etc_commands:rules", "show the rules for the merge, and where they come from", etc)
    rules.add_argument("path", metavar="PATH", nargs="?", help="below /etc: only those that are about it")
    _json(rules)

    kargs = group("kargs", "show and change kernel arguments")
    _json(verb("show", "kargs_commands:show", "show what the next boot has, and whose it is", kargs))
    add = verb("add", "kargs_commands:add", "add arguments of this machine, which every upgrade keeps", kargs)
    add.add_argument("arguments", metavar="ARG", nargs="+", help="kernel argument")
    _json(add)
    remove = verb("remove", "kargs_commands:remove", "remove arguments of this machine", kargs)
    remove.add_argument("arguments", metavar="ARG", nargs="+", help="kernel argument, exactly as 'show' has it")
    _json(remove)
    instead = verb("replace", "kargs_commands:replace", "put another argument in the place of one", kargs)
    instead.add_argument("old", metavar="OLD", help="kernel argument of this machine, exactly as 'show' has it")
    instead.add_argument("new", metavar="NEW", help="kernel argument")
    _json(instead)
    _json(verb("reload", "kargs_commands:reload", "take what the files in /etc/bootcd/kargs.d ask for by now", kargs))

    image = group("image", "work with the images in the repository")
    pull = verb("pull", "image_commands:pull", "bring an image into the repository without deploying it", image)
    pull.add_argument("image", metavar="IMAGE", help=_IMAGE_HELP)
    pull.add_argument("--name", default="", help="name in the repository (default: the reference)")
    pull.add_argument("--bootable", action="store_true", help="also make the image that a machine would boot")
    _limits(pull)
    _background(pull)
    _json(pull)
    verify = verb("verify", "image_commands:verify", "tell what the signature policy says of an image", image)
    verify.add_argument("image", metavar="IMAGE", help=_IMAGE_HELP)
    _json(verify)
    _json(verb("list", "image_commands:list_images", "list the named images", image))
    inspect = verb("inspect", "image_commands:inspect", "show one image", image)
    inspect.add_argument("image", metavar="NAME", help="name or manifest digest")
    _json(inspect)
    mount = verb("mount", "image_commands:mount", "mount an image read-only", image)
    mount.add_argument("image", metavar="NAME", help="name or manifest digest")
    mount.add_argument("directory", metavar="DIR", help="where to mount it")
    mount.add_argument("--bootable", action="store_true", help="the tree as a machine boots it, with /boot emptied")
    tar = verb("import-tar", "image_commands:import_tar", "make an image of one layer from a tar file", image)
    tar.add_argument("tar", metavar="FILE", help="tar, plain or compressed by gzip or zstd; '-' is standard input")
    tar.add_argument("name", metavar="NAME", help="name in the repository")
    _json(tar)
    remove = verb("remove", "image_commands:remove", "forget the name of an image", image)
    remove.add_argument("image", metavar="NAME", help="name as 'image list' shows it")

    container = group("container", "tools for building images")
    digest = verb("compute-digest", "container_commands:compute_digest",
                  "print the digest that a machine will compute for an image", container)
    digest.add_argument("source", metavar="SOURCE", nargs="?", help=_TREE_HELP)
    digest.add_argument("--explain", nargs=2, metavar=("A", "B"), help="tell what differs first between two of them, "
                        "which may be composefs dumps as well; exit status 6 when they differ")
    digest.add_argument("--whole-seconds", action="store_true", help="of a directory: without fractions of seconds in "
                        "times, as buildah and others store them")
    digest.add_argument("--write-dumpfile", metavar="FILE", help="also write the tree that the digest is of, as a dump")
    _format(digest)
    digest.add_argument("--xattrs", choices=("allowlist-only", "keep-user-xattrs"), default="allowlist-only",
                        help="which xattrs count (default: %(default)s)")
    digest.add_argument("--no-boot", action="store_true", help="the image as mounted, not as booted")
    add_verbs(container, verb, _size, _format)

    composefs = group("composefs", "plain composefs tools, for those who come from mkcomposefs")
    mkfs = verb("mkfs", "composefs_commands:mkfs", "write an EROFS image of a directory or a dump", composefs)
    mkfs.add_argument("--from-dump", action="store_true", help="SOURCE is a composefs dump, '-' for standard input")
    _format(mkfs)
    mkfs.add_argument("--no-hardlinks", action="store_true",
                      help="give each name in a directory an inode of its own, as mkcomposefs does")
    mkfs.add_argument("--digest-only", action="store_true", help="print the digest and write nothing")
    mkfs.add_argument("source", metavar="SOURCE", help="directory, or dump with --from-dump")
    mkfs.add_argument("target", metavar="IMAGE", nargs="?", help="file to write, '-' for standard output")
    dump = verb("dump", "composefs_commands:dump", "print an image as a composefs dump", composefs)
    dump.add_argument("image", metavar="IMAGE", help="file, '-' for standard input")
    measure = verb("measure", "composefs_commands:measure", "print fs-verity digests of files", composefs)
    measure.add_argument("--algorithm", choices=("sha256", "sha512"), default="sha512",
                         help="hash (default: %(default)s)")
    measure.add_argument("files", metavar="FILE", nargs="+", help="regular files")
    return parser


_IMAGE_HELP = "[docker://]HOST/PATH[:TAG][@DIGEST], oci:DIR[:TAG], dir:DIR, tar:FILE and more, see bootcctl(8)"
_TREE_HELP = "root directory, tar, EROFS image, oci:DIR[:TAG], dir:DIR and more, see bootcctl(8)"
_WHICH = "id, version, label, booted, default, staged or rollback"


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _everywhere(parser: argparse.ArgumentParser, *, hidden: bool = False) -> None:
    """Options that may stand before or after the verb. Only the main help shows them; a verb has no defaults of its
    own for them, which would undo what stood before it."""
    for names, kind, help in (
        (("--sysroot",), {"metavar": "DIR"}, "physical root of the installation; bootcctl itself works on it then "
         "(default: /sysroot, through the daemon if there is one)"),
        (("--esp",), {"metavar": "DIR"}, "where its EFI system partition is mounted (default: /efi, /boot/efi or "
         "/boot, with another --sysroot its efi, boot/efi, boot or esp)"),
        (("--config",), {"metavar": "FILE"}, "read this file and no other bootcd.toml; the daemon is not asked"),
        (("--quiet", "-q"), {"action": "store_true"}, "no progress, only results and errors"),
        (("--debug",), {"action": "store_true"}, "log what is done; show where an error comes from"),
    ):
        options: dict[str, Any] = {**kind, "default": argparse.SUPPRESS, "help": argparse.SUPPRESS if hidden else help}
        parser.add_argument(*names, **options)


def _apply(parser: argparse.ArgumentParser, how: Any) -> None:
    how.add_argument("--apply", action="store_true", help="reboot into it now")
    parser.add_argument("--soft-reboot", choices=SOFT_REBOOTS, default="no", help="with --apply: keep the kernel "
                        "running if that comes to the same as a reboot, or do not reboot at all (default: %(default)s)")


def _from(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--from", dest="take_from", metavar="PLACE", default="", help="read the image from there, such "
                        "as oci:/media/usb, and still follow the reference")


def _allow_untried(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--allow-untried", action="store_true", help="do not wait until the boot of the running "
                        "deployment is complete")


def _limits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max-rate", type=_size, metavar="SIZE", help="download no more than that in a second, such "
                        "as 500K")
    parser.add_argument("--max-download", type=_size, metavar="SIZE", help="do nothing if more than that would have to "
                        "be downloaded")


def _background(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--background", action="store_true", help="nobody waits for it: take CPU and disk only when "
                        "they are idle")


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("v0", "v1", "v2"), default="v1",
                        help="EROFS format (default: %(default)s)")
    parser.add_argument("--algorithm", choices=("sha256", "sha512"), default="sha512",
                        help="hash (default: %(default)s)")
