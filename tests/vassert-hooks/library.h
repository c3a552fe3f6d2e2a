#pragma once
#ifdef __cplusplus
extern "C" {
#endif
int library_double(int x);
void library_free_ghost(void* block);
#ifdef __cplusplus
}
#endif
