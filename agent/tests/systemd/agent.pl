#!/usr/bin/perl
# A release of the agent with configured behaviour, instead of the real one: @VERSION@, @BEHAVIOUR@.
# What is not about its behaviour, the updater above all, is the real binary's.
use strict;
use warnings;
use IO::Socket::UNIX;
use POSIX qw(strftime);
use Socket qw(SOCK_DGRAM SOCK_STREAM);

my ($version, $behaviour) = ('@VERSION@', '@BEHAVIOUR@');
my $real = '/usr/lib/imagebuilder-agent/real';
my $run = '/run/imagebuilder-agent';
my $face = join ' ', @ARGV;

sub write_file {
    my ($path, $text) = @_;
    open my $file, '>', "$path.new" or return;
    print $file $text;
    close $file;
    rename "$path.new", $path;
}

sub notify {
    my $socket = $ENV{NOTIFY_SOCKET} or return;
    $socket =~ s/^@/\0/;
    my $to = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Peer => $socket) or die "notify: $!";
    $to->send($_[0]);
}

if ($face eq '--version') {
    print "imagebuilder-agent $version\n";
    exit 0;
}
if ($face eq 'configure') {
    write_file('/run/imagebuilder/configured', "$version\n");
    if (open my $settings, '<', '/etc/imagebuilder/update.json') {
        write_file('/run/imagebuilder/update.json', join '', <$settings>);
    }
    exit 0;
}
if ($ARGV[0] eq 'update' && $ARGV[1] eq 'probe') {
    my $count = '/var/lib/imagebuilder-update/probed';
    my $probed = -s $count || 0;
    if (open my $file, '>>', $count) { print $file '.'; close $file; }
    exit 1 if $behaviour eq 'blind' || $behaviour eq 'turns-blind' && $probed;
    # The real self-test, under this release's name.
    open my $out, '-|', $real, @ARGV or die "$real: $!";
    my @lines = <$out>;
    close $out or exit 1;
    print "imagebuilder-agent $version\n";
    exit 0;
}
if ($ARGV[0] ne 'run') {
    exec $real, @ARGV or die "$real: $!";
}

# --- run -----------------------------------------------------------------------------------------------
$SIG{TERM} = sub { exit 0 };
if ($behaviour eq 'crashes') { exit 1 }
if ($behaviour eq 'crashes-until-well') { exit 1 unless -e '/etc/well' }
if ($behaviour eq 'hangs') { select undef, undef, undef, 0.1 while 1 }
if ($behaviour eq 'snoops') {
    # Whatever the daemon could do to the updater's files, it tries.
    my @could;
    for my $path (
        '/opt/imagebuilder-agent/x', '/opt/imagebuilder-agent/versions/x', '/opt/imagebuilder-agent/staging/x',
        '/usr/lib/imagebuilder-agent/factory/x', '/var/lib/imagebuilder-update/x', '/run/imagebuilder-update/x',
        '/run/imagebuilder/x', '/etc/systemd/system/x.service', '/usr/share/imagebuilder-agent/x',
        )
    {
        if (open my $file, '>', $path) { close $file; push @could, $path }
    }
    push @could, 'link' if symlink 'versions/x', '/opt/imagebuilder-agent/trial';
    push @could, 'unlink' if unlink '/opt/imagebuilder-agent/stable';
    push @could, 'state' if opendir my $dir, '/var/lib/imagebuilder-update';
    push @could, 'start' if system('systemctl start imagebuilder-agent-update.service 2>/dev/null') == 0;
    write_file("$run/could", join("\n", 'tried', @could) . "\n");
}
my $began = time;
my $ready = 0;
for (;;) {
    my $fit = $behaviour eq 'sickens' ? 'false' : 'true';
    my $verdict = $behaviour eq 'sickens' ? 'unfit' : 'fit';
    my $now = strftime('%Y-%m-%dT%H:%M:%SZ', gmtime(time + 1));
    write_file("$run/status.json", qq({"agent":"$version","pid":$$,"state":"serving","verdict":"$verdict",)
        . qq("services":{"orders":{"version":"1","healthy":$fit,"detail":""}},)
        . qq("leave":{"granted":true,"reason":"","at":"$now"}}\n));
    if (!$ready++) { notify("READY=1") }
    notify('WATCHDOG=1') unless $behaviour eq 'stalls';
    # A second after it was ready.
    if (time - $began >= 2) {
        exit 1 if $behaviour eq 'crashes-later';
        exit 0 if $behaviour eq 'leaves';
    }
    select undef, undef, undef, 0.1;
}
