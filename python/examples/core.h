/* A native core with a log callback and threads of its own. It knows nothing of Python. */
#ifndef CORE_H
#define CORE_H
#ifdef __cplusplus
extern "C" {
#endif
typedef void (*core_logger)(int level, char const *text);
void core_start(core_logger logger, int threads); /* these log from now on, until the process is at its end */
long core_events(void);                           /* how often they have done so */
#ifdef __cplusplus
}
#endif
#endif
