// Makes guest stores fast. Unicorn 2.0.1 keeps every writable TLB entry in the state "page may hold
// translated code", so each store takes a slow path of some 65 ns (measured; loads: 2 ns). Pages that the
// guest can't execute need no such check. unicorn_stores.cc interposes the library's own function that fills
// the TLB and marks those pages; where the library does not let itself be interposed (a static or differently
// built one) stores are slow but right.
#pragma once

#include "machine/soft/page_tables.h"

namespace aftercheck::soft {

// While one lives, TLB entries made on this thread are judged by `tables`.
class FastStores {
 public:
  explicit FastStores(const PageTables& tables);
  ~FastStores();
  FastStores(const FastStores&) = delete;
  FastStores& operator=(const FastStores&) = delete;

 private:
  const PageTables* previous_;
};

}  // namespace aftercheck::soft
