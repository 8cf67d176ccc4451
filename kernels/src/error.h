// The one exception type of the engine; it becomes a tl_status and a text at the extern "C" border.
#pragma once

#include <stdexcept>
#include <string>

#include "tlora.h"

namespace tlora {

class Error : public std::runtime_error {
 public:
  Error(tl_status status, const std::string& text) : std::runtime_error(text), status_(status) {}
  tl_status status() const { return status_; }

 private:
  tl_status status_;
};

}  // namespace tlora
