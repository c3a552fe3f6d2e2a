// What exits cost on this host, for those who must tell whether a guest makes many of them.
#pragma once

namespace aftercheck {

// Seconds that the calling thread has had a processor, the guest's code included: what others on a busy host
// do is no cost of ours. (CLOCK_THREAD_CPUTIME_ID of clock_gettime(2).)
double thread_seconds();

// Notes how long one exit with its return took; KVM vCPUs do. Any thread.
void note_exit_seconds(double seconds);

// Exits that come as often as this are dense: the exits take most of the time, not what the guest executes
// between them. At least `least`, on a host with dear exits (nested ones take from 20 to 200 us) a multiple
// of what was noted.
double dense_seconds(double least);

}  // namespace aftercheck
