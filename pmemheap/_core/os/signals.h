/* os/signals.h -- handlers of faults, in a chain: each leaves to the one before it what it knows nothing of. */
#pragma once
#include <signal.h>

/* ph_pass_on -- let the handler have a signal that was there before. A fault that nobody handles comes again, and ends the
 * process. May be called in a handler. */
static inline void ph_pass_on(const struct sigaction *before, int number, siginfo_t *info, void *context)
{
    if (before->sa_flags & SA_SIGINFO) {
        before->sa_sigaction(number, info, context);
    } else if (before->sa_handler != SIG_DFL && before->sa_handler != SIG_IGN) {
        before->sa_handler(number);
    } else if (before->sa_handler == SIG_DFL || info->si_code > 0) {
        signal(number, SIG_DFL);
        if (info->si_code <= 0) /* sent by somebody: it comes again when this handler returns */
            raise(number);
    }
}

static inline int ph_is_nobodys(const struct sigaction *action)
{
    return !(action->sa_flags & SA_SIGINFO) && (action->sa_handler == SIG_DFL || action->sa_handler == SIG_IGN);
}
