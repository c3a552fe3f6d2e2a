/* The ioctl numbers of KVM calls whose argument ends in a flexible array. In the Linux 6.1 UAPI headers those
 * structs have another size in C++ than in C, which would make the numbers wrong (EINVAL), so they are
 * computed in a C file. */
#ifndef AFTERCHECK_MACHINE_KVM_KVM_IOCTL_NUMBERS_H
#define AFTERCHECK_MACHINE_KVM_KVM_IOCTL_NUMBERS_H

#ifdef __cplusplus
extern "C" {
#endif
extern const unsigned long aftercheck_kvm_get_supported_cpuid;
extern const unsigned long aftercheck_kvm_set_cpuid2;
extern const unsigned long aftercheck_kvm_get_msrs;
extern const unsigned long aftercheck_kvm_set_msrs;
extern const unsigned long aftercheck_kvm_get_xsave;
extern const unsigned long aftercheck_kvm_set_xsave;
#ifdef __cplusplus
}
#endif

#endif
