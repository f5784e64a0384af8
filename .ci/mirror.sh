# Sourced: what apt of this machine is set up with, for mmdebstrap. No host name is written down anywhere.
# shellcheck shell=bash

# Lines `LABEL CODENAME COMPONENT URI` of Debian's own suites. Reads the lists that `apt-get update` left.
apt_targets() {
    apt-get indextargets --format '$(ORIGIN) $(LABEL) $(CODENAME) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
        awk '$1 == "Debian" { print $2, $3, $4, $5 }'
}

# The release this machine runs, by its mirror's name for it.
apt_suite() {
    local suite
    suite=$(apt_targets | awk '$1 == "Debian" && $2 !~ /-/ { print $2; exit }')
    if [ -z "$suite" ] && [ -n "${APT_UPDATED:-}" ]; then
        echo "zos: apt's sources name no Debian mirror" >&2
        return 1
    elif [ -z "$suite" ]; then
        apt-get -qq update >&2
        APT_UPDATED=1 apt_suite
    else
        echo "$suite"
    fi
}

# Sources of release SUITE from the same mirrors: main and security.
apt_sources() {
    local suite=$1
    apt_targets | awk -v suite="$suite" '
        $3 != "main" { next }
        $1 == "Debian" && $2 !~ /-/ && !main++ { print "deb", $4, suite, "main"; print "deb", $4, suite "-updates", "main" }
        $1 == "Debian-Security" && !security++ { print "deb", $4, suite "-security", "main" }'
}

# This machine's settings of how apt fetches (proxies, clock checks), as options of mmdebstrap, one a line.
apt_options() {
    apt-config dump | sed -n -E 's/^(Acquire::(http|https|Check-Valid-Until|Check-Date|Retries)[^ ]*) (".*");$/--aptopt=\1 \3/p'
}
