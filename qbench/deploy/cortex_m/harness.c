/* Acts on the observations in observations.bin and writes to results.bin, for the emulator.
 *
 * results.bin: ticks of a loop of CALIBRATION instructions; for every observation the sums, the
 * outputs and the ticks that they took; then the bytes of stack. All are 4 bytes wide. */
#include <stddef.h>

#include "policy.h"

/* Requests to the host: https://github.com/ARM-software/abi-aa, Semihosting for AArch32. */
#define SYS_OPEN 0x01
#define SYS_CLOSE 0x02
#define SYS_WRITE 0x05
#define SYS_READ 0x06
#define SYS_EXIT 0x18
#define READ_BYTES 1
#define WRITE_BYTES 5
#define APPLICATION_EXIT 0x20026
#define RUN_TIME_ERROR 0x20023

/* The system timer: counts 24 bits down. */
#define SYSTICK_CONTROL (*(volatile uint32_t *)0xE000E010)
#define SYSTICK_RELOAD (*(volatile uint32_t *)0xE000E014)
#define SYSTICK_VALUE (*(volatile uint32_t *)0xE000E018)
#define SYSTICK_MASK 0xFFFFFFu

#define CALIBRATION 400000
#define PAINTED_WORDS 4096
#define PAINT 0xA5A5A5A5u

static OBS_TYPE observation[POLICY_INPUTS];
static float output[POLICY_OUTPUTS];
static policy_memory memory;

static uint32_t request(uint32_t number, uintptr_t argument)
{
    register uint32_t r0 __asm__("r0") = number;
    register uintptr_t r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

/* Takes the place of startup.c's: the emulator ends with exit code 1. */
void fault(void)
{
    request(SYS_EXIT, RUN_TIME_ERROR);
}

static uint32_t open_file(const char *name, uint32_t length, uint32_t mode)
{
    uintptr_t block[3] = {(uintptr_t)name, mode, length};
    return request(SYS_OPEN, (uintptr_t)block);
}

/* How many bytes were not read or written. */
static uint32_t transfer(uint32_t number, uint32_t file, const void *data, uint32_t size)
{
    uintptr_t block[3] = {file, (uintptr_t)data, size};
    return request(number, (uintptr_t)block);
}

static uint32_t ticks_since(uint32_t start)
{
    return (start - SYSTICK_VALUE) & SYSTICK_MASK;
}

static uint32_t calibration(void)
{
    uint32_t start = SYSTICK_VALUE, count = CALIBRATION / 2;
    __asm__ volatile("1: subs %0, #1\n\tbne 1b" : "+l"(count) : : "cc");
    return ticks_since(start);
}

/* Fills what lies below the stack, which grows downwards; volatile, so that no memset with a
 * stack of its own does it. */
static volatile uint32_t *painted(void)
{
    volatile uint32_t *top;
    __asm__ volatile("mov %0, sp" : "=r"(top));
    for (int i = 1; i <= PAINTED_WORDS; ++i) top[-i] = PAINT;
    return top;
}

static uint32_t stack_bytes(const volatile uint32_t *top)
{
    int i = PAINTED_WORDS;
    while (i > 0 && top[-i] == PAINT) --i;
    return (uint32_t)i * sizeof(uint32_t);
}

__attribute__((noinline)) static int act(void)
{
    if (policy_quantize(observation, &memory)) return -1;
    policy_run(&memory);
    policy_dequantize(&memory, output);
    return 0;
}

int main(void)
{
    uint32_t from = open_file("observations.bin", 16, READ_BYTES);
    uint32_t to = open_file("results.bin", 11, WRITE_BYTES);
    SYSTICK_RELOAD = SYSTICK_MASK;
    SYSTICK_VALUE = 0;
    SYSTICK_CONTROL = 5; /* on, by the processor's clock, without interrupts */
    uint32_t ticks = calibration();
    transfer(SYS_WRITE, to, &ticks, sizeof ticks);
    const volatile uint32_t *top = painted();
    uint32_t used = 0;
    while (transfer(SYS_READ, from, observation, sizeof observation) == 0) {
        uint32_t start = SYSTICK_VALUE;
        int fault = act();
        ticks = ticks_since(start);
        if (fault) break;
        used = stack_bytes(top);
        transfer(SYS_WRITE, to, memory.sums, sizeof memory.sums);
        transfer(SYS_WRITE, to, output, sizeof output);
        transfer(SYS_WRITE, to, &ticks, sizeof ticks);
    }
    transfer(SYS_WRITE, to, &used, sizeof used);
    request(SYS_CLOSE, (uintptr_t)&to);
    request(SYS_EXIT, APPLICATION_EXIT);
    return 0;
}
