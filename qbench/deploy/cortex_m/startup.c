/* What runs before main: the vector table, and memory as C expects it. */
#include <stdint.h>

extern uint32_t stack_top, data_stored, data_start, data_end, bss_start, bss_end;
int main(void);

void reset(void)
{
    uint32_t *from = &data_stored;
    for (uint32_t *to = &data_start; to < &data_end; ++to) *to = *from++;
    for (uint32_t *to = &bss_start; to < &bss_end; ++to) *to = 0;
    main();
    for (;;) continue;
}

__attribute__((weak)) void fault(void)
{
    for (;;) continue;
}

__attribute__((section(".vectors"), used)) static const uintptr_t vectors[] = {
    (uintptr_t)&stack_top, (uintptr_t)reset, (uintptr_t)fault, (uintptr_t)fault,
    (uintptr_t)fault,      (uintptr_t)fault, (uintptr_t)fault,
};
