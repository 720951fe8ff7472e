/* os/fences.c -- pages that nobody may reach, and the handler that says whose they are.
 *
 *     start      low            address    address + size   high       stop
 *     | fence    | canary       | block             | canary | fence    |       live
 *     | fence                                                           |       freed
 *
 * A fence is a mark in the page tables (MADV_GUARD_INSTALL), which costs no map; before Linux 6.13, and in locked memory, it is a
 * map of its own without rights.
 *
 * The handler of SIGSEGV looks for the address among the guarded blocks of all heaps, says what it finds, and passes the fault
 * on to the handler that was there before: the process ends as it would have. It may meet a row that another thread is changing;
 * the memory of a row is never given back, so that it can always be read. */
#include "os/fences.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "os/seam.h"
#include "os/signals.h"

enum { ROWS = 32 };

struct rows {
    struct rows *next;
    struct ph_guarded rows[ROWS];
};

static struct rows *all;
static struct ph_guarded *unused;
static struct sigaction before; /* what SIGSEGV did */
static int is_watching;

/* ---------------------------------------------------------------- fences */

static int64_t protect(uint64_t address, uint64_t length, int protection)
{
    return PH_CALL(PH_CALL_MPROTECT, mprotect(ph_pointer(address), length, protection));
}

int64_t ph_fence_pages(uint64_t address, uint64_t length, uint32_t *by_protection)
{
    if (!*by_protection) {
        int64_t done = ph_advise(address, length, PH_ADVISE_FENCE);
        if (done != -EINVAL)
            return done;
        *by_protection = 1;
    }
    int64_t done = protect(address, length, PROT_NONE);
    return done < 0 ? done : ph_advise(address, length, PH_ADVISE_DONTNEED);
}

int64_t ph_unfence_pages(uint64_t address, uint64_t length, uint32_t by_protection)
{
    int64_t done = ph_advise(address, length, PH_ADVISE_UNFENCE); /* also where it was made before all of them were maps */

    return by_protection ? protect(address, length, PROT_READ | PROT_WRITE) : done;
}

/* ---------------------------------------------------------------- rows */

static int add_rows(void)
{
    struct rows *more = calloc(1, sizeof *more);

    if (more == NULL)
        return 0;
    for (int i = 0; i < ROWS; i++)
        more->rows[i].next = i + 1 < ROWS ? &more->rows[i + 1] : NULL;
    unused = more->rows;
    more->next = all;
    __atomic_store_n(&all, more, __ATOMIC_RELEASE);
    return 1;
}

struct ph_guarded *ph_guarded_take(void)
{
    if (unused == NULL && !add_rows())
        return NULL;
    struct ph_guarded *one = unused;
    unused = one->next;
    *one = (struct ph_guarded){0};
    return one;
}

void ph_guarded_give(struct ph_guarded *one)
{
    one->state = PH_G_NONE;
    one->next = unused;
    unused = one;
}

/* ---------------------------------------------------------------- what is said of a fault */

struct text {
    char bytes[2048];
    size_t length;
};

static void put(struct text *text, const char *words)
{
    size_t length = strnlen(words, sizeof text->bytes - text->length);

    memcpy(text->bytes + text->length, words, length);
    text->length += length;
}

static void put_number(struct text *text, uint64_t number, unsigned base)
{
    char digits[24];
    char *at = digits + sizeof digits;

    *--at = 0;
    do
        *--at = "0123456789abcdef"[number % base];
    while ((number /= base) != 0);
    put(text, at);
}

static void put_site(struct text *text, const char *what, const char *site)
{
    put(text, what);
    put(text, *site ? site : "a place that is not known");
    put(text, "\n");
}

static void put_bytes(struct text *text, uint64_t count)
{
    put_number(text, count, 10);
    put(text, count == 1 ? " byte" : " bytes");
}

static void put_what(struct text *text, const struct ph_guarded *one, uint64_t at)
{
    uint64_t end = one->address + one->size;

    put(text, one->state == PH_G_FREED ? "use after free" : at < one->address ? "underrun" : "overrun");
    put(text, ": an access ");
    put_bytes(text, at < one->address ? one->address - at : at >= end ? at - end + 1 : at - one->address);
    put(text, at < one->address ? " before" : at >= end ? " behind the last one of" : " from the begin of");
    put(text, " the guarded block at offset 0x");
    put_number(text, one->offset, 16);
    put(text, ", of ");
    put_bytes(text, one->size);
    put(text, "\n");
}

static void tell(const struct ph_guarded *one, uint64_t at)
{
    struct text text = {.length = 0};

    put(&text, "pmemheap: ");
    put_what(&text, one, at);
    put_site(&text, "  made at ", one->made_by);
    if (one->state == PH_G_FREED)
        put_site(&text, "  freed at ", one->freed_by);
    if (write(STDERR_FILENO, text.bytes, text.length) < 0)
        return; /* nobody listens */
}

static const struct ph_guarded *find(uint64_t address)
{
    for (const struct rows *some = __atomic_load_n(&all, __ATOMIC_ACQUIRE); some != NULL; some = some->next)
        for (int i = 0; i < ROWS; i++) {
            const struct ph_guarded *one = &some->rows[i];
            if (one->state != PH_G_NONE && address - one->start < one->stop - one->start)
                return one;
        }
    return NULL;
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    int saved = errno;
    uint64_t address = (uint64_t)(uintptr_t)info->si_addr;
    const struct ph_guarded *one = info->si_code > 0 ? find(address) : NULL;

    if (one != NULL)
        tell(one, address);
    ph_pass_on(&before, number, info, context);
    errno = saved;
}

/* As in os/file_table.c: a handler of somebody else that came after ours stays where it is: it calls ours. */
void ph_guarded_watch(void)
{
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK}, now;

    if (sigaction(SIGSEGV, NULL, &now) < 0 || (is_watching && !ph_is_nobodys(&now)))
        return;
    sigemptyset(&action.sa_mask);
    before = now;
    is_watching = sigaction(SIGSEGV, &action, NULL) == 0;
}
