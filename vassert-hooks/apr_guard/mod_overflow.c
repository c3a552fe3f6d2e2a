/* SPDX-License-Identifier: BSD-2-Clause
 * An Apache module with a bug: its handler copies the request's arguments into 32 bytes, and has no room for
 * the NUL of 32 characters. The byte beyond is the first of what the pool gives next, so nothing goes wrong
 * that anyone would notice. */
#include <httpd.h>
#include <string.h>

/* After httpd.h, which they need. */
#include <http_config.h>
#include <http_protocol.h>

static int handle(request_rec* request) {
  if (strcmp(request->handler, "overflow") != 0) return DECLINED;
  char* copy = apr_palloc(request->pool, 32);
  const char* arguments = request->args ? request->args : "";
  if (strlen(arguments) > 32) return HTTP_BAD_REQUEST;
  strcpy(copy, arguments);
  ap_set_content_type(request, "text/plain");
  ap_rprintf(request, "%s\n", copy);
  return OK;
}

static void hooks(apr_pool_t* pool) {
  (void)pool;
  ap_hook_handler(handle, NULL, NULL, APR_HOOK_MIDDLE);
}

module AP_MODULE_DECLARE_DATA overflow_module = {
    STANDARD20_MODULE_STUFF, NULL, NULL, NULL, NULL, NULL, hooks, 0};
