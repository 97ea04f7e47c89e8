/* The least program that acts: what its flash and RAM are measured on. OBS_TYPE is defined when
 * it is compiled. */
#include "policy.h"

OBS_TYPE observation[POLICY_INPUTS];
float output[POLICY_OUTPUTS];
static policy_memory memory;

int main(void)
{
    for (;;) {
        if (policy_quantize(observation, &memory)) continue;
        policy_run(&memory);
        policy_dequantize(&memory, output);
    }
}
