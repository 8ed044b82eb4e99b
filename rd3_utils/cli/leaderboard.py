"""python -m rd3_utils leaderboard: a static site of Runs from folders and from the Hub, each checked."""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from rd3_utils.cli import options as shared
from rd3_utils.errors import UserError


def add_options(parser: ArgumentParser) -> None:
    """Options of `leaderboard`."""
    parser.add_argument("--results", metavar="DIR", nargs="+", action="extend", default=[], help="folders that hold Runs")
    parser.add_argument("--hub-tag", metavar="TAG", help="also the Runs of all model repos with this tag, such as rd3")
    parser.add_argument("--hub-repos", metavar="A,B", help="also those of these model repos, OWNER/REPO[@REVISION]")
    parser.add_argument("--rescore", action="store_true", help="score the networks that lie with Runs again, on the test split")
    shared.add_data_dirs(parser)
    parser.add_argument("--out", metavar="SITE", required=True, help="folder of the site; a former one is replaced")
    parser.add_argument("--publish", metavar="OWNER/SPACE", help="push it as a static Space, which is made if missing")
    parser.add_argument("--private", action="store_true", help="make a Space that is missing private")


def run(options: Namespace) -> None:
    """Gather Runs, write the site, and push it if asked."""
    from rd3_utils import pushing
    from rd3_utils.leaderboard import gather, site

    if not (options.results or options.hub_tag or options.hub_repos):
        raise UserError("give --results DIR, --hub-tag TAG or --hub-repos OWNER/REPO: a leaderboard needs Runs.")
    if options.private and not options.publish:
        raise UserError("--private needs --publish OWNER/SPACE.")
    if options.data_dir and not options.rescore:
        raise UserError("--data-dir is read to score networks again: it needs --rescore.")
    target = pushing.Target(options.publish, "space", options.private) if options.publish else None
    if target:
        site.check_space(target)
    site.check_site_folder(options.out)
    repos = [repo for repo in (options.hub_repos or "").split(",") if repo]
    if options.rescore:
        from rd3_utils.leaderboard import rescore

        gathered = gather.gather(options.results, options.hub_tag, repos, rescore.rescorer(tuple(options.data_dir)).mark)
    else:
        gathered = gather.gather(options.results, options.hub_tag, repos)
    files, gathered = site.build_site(gathered, options.out)
    for note in gathered.notes:
        print(note, file=sys.stderr)
    ranked, apart = sum(len(entry.runs) for entry in gathered.entries), len(gathered.apart) + gathered.left_out
    print(f"{len(gathered.entries)} entries of {ranked} Runs, {apart} files not ranked: {Path(options.out) / 'index.html'}")
    if target:
        pushing.say(site.publish_site(target, files))
