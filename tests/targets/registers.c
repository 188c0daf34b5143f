/*
 * Calls functions with every general and vector register, the x87 stack and MXCSR loaded with values of their own, and
 * says which of them a call changed: `ok N` for N calls that changed none. The functions themselves change none.
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* Functions of different first instructions, none of which changes a register for good. */
__asm__(".text\n.p2align 4\n.globl keeps_frame\n.type keeps_frame,@function\nkeeps_frame:\n"
	"push %rbp\n mov %rsp,%rbp\n sub $32,%rsp\n mov %rdi,-8(%rbp)\n leave\n ret\n.size keeps_frame,.-keeps_frame\n"
	".p2align 4\n.globl keeps_nop\n.type keeps_nop,@function\nkeeps_nop:\n"
	"nopl 0(%rax,%rax,1)\n ret\n.size keeps_nop,.-keeps_nop\n"
	".p2align 4\n.globl keeps_endbr\n.type keeps_endbr,@function\nkeeps_endbr:\n"
	"endbr64\n push %rbx\n lea word(%rip),%rbx\n pop %rbx\n ret\n.size keeps_endbr,.-keeps_endbr\n"
	".p2align 4\n.globl keeps_jump\n.type keeps_jump,@function\nkeeps_jump:\n"
	"cmp $0,%rdi\n je 1f\n nop\n1: ret\n.size keeps_jump,.-keeps_jump\n"
	".data\nword: .quad 0\n.text\n");
void keeps_frame(void);
void keeps_nop(void);
void keeps_endbr(void);
void keeps_jump(void);

struct state {
	uint64_t gpr[14];        /* rax rbx rcx rdx rsi rdi r8..r15 */
	uint8_t xmm[16][16];
	uint32_t mxcsr;
	uint32_t pad;
	double x87;
} __attribute__((aligned(16)));

struct state before, after;
void *target;
uint64_t saved_rsp, rsp_after, rbp_after;

__attribute__((naked, noinline)) static void call_with_state(void)
{
	__asm__ volatile(
		"push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"
		"mov %rsp, saved_rsp(%rip)\n"
		"lea before(%rip), %rax\n"
		"ldmxcsr 368(%rax)\n fldl 376(%rax)\n"
		"movdqa 112(%rax),%xmm0\n movdqa 128(%rax),%xmm1\n movdqa 144(%rax),%xmm2\n movdqa 160(%rax),%xmm3\n"
		"movdqa 176(%rax),%xmm4\n movdqa 192(%rax),%xmm5\n movdqa 208(%rax),%xmm6\n movdqa 224(%rax),%xmm7\n"
		"movdqa 240(%rax),%xmm8\n movdqa 256(%rax),%xmm9\n movdqa 272(%rax),%xmm10\n movdqa 288(%rax),%xmm11\n"
		"movdqa 304(%rax),%xmm12\n movdqa 320(%rax),%xmm13\n movdqa 336(%rax),%xmm14\n movdqa 352(%rax),%xmm15\n"
		"mov 8(%rax),%rbx\n mov 16(%rax),%rcx\n mov 24(%rax),%rdx\n mov 32(%rax),%rsi\n mov 40(%rax),%rdi\n"
		"mov 48(%rax),%r8\n mov 56(%rax),%r9\n mov 64(%rax),%r10\n mov 72(%rax),%r11\n mov 80(%rax),%r12\n"
		"mov 88(%rax),%r13\n mov 96(%rax),%r14\n mov 104(%rax),%r15\n mov $0x5a5a5a5a,%ebp\n mov (%rax),%rax\n"
		"call *target(%rip)\n"
		"mov %rsp, rsp_after(%rip)\n mov %rbp, rbp_after(%rip)\n push %rax\n lea after(%rip), %rax\n pop (%rax)\n"
		"mov %rbx,8(%rax)\n mov %rcx,16(%rax)\n mov %rdx,24(%rax)\n mov %rsi,32(%rax)\n mov %rdi,40(%rax)\n"
		"mov %r8,48(%rax)\n mov %r9,56(%rax)\n mov %r10,64(%rax)\n mov %r11,72(%rax)\n mov %r12,80(%rax)\n"
		"mov %r13,88(%rax)\n mov %r14,96(%rax)\n mov %r15,104(%rax)\n"
		"movdqa %xmm0,112(%rax)\n movdqa %xmm1,128(%rax)\n movdqa %xmm2,144(%rax)\n movdqa %xmm3,160(%rax)\n"
		"movdqa %xmm4,176(%rax)\n movdqa %xmm5,192(%rax)\n movdqa %xmm6,208(%rax)\n movdqa %xmm7,224(%rax)\n"
		"movdqa %xmm8,240(%rax)\n movdqa %xmm9,256(%rax)\n movdqa %xmm10,272(%rax)\n movdqa %xmm11,288(%rax)\n"
		"movdqa %xmm12,304(%rax)\n movdqa %xmm13,320(%rax)\n movdqa %xmm14,336(%rax)\n movdqa %xmm15,352(%rax)\n"
		"stmxcsr 368(%rax)\n fstpl 376(%rax)\n"
		"pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n ret\n");
}

int main(void)
{
	void *targets[] = { keeps_frame, keeps_nop, keeps_endbr, keeps_jump };
	unsigned long calls = 0;
	uint64_t x = 88172645463325252u;
	for (int round = 0; round < 20000; round++) {
		for (unsigned i = 0; i < sizeof before / 8; i++) {
			x ^= x << 13, x ^= x >> 7, x ^= x << 17;
			memcpy((char *)&before + i * 8, &x, 8);
		}
		before.mxcsr = 0x1f80 | (round & 3) << 13;
		before.pad = 0;
		before.x87 = round;
		target = targets[round & 3];
		call_with_state();
		if (memcmp(&before, &after, sizeof before) || saved_rsp != rsp_after || rbp_after != 0x5a5a5a5a) {
			for (int i = 0; i < 14; i++)
				if (before.gpr[i] != after.gpr[i]) printf("register %d changed\n", i);
			printf("bad after %lu calls\n", calls);
			return 1;
		}
		calls++;
	}
	printf("ok %lu\n", calls);
	return 0;
}
