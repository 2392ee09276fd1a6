#include "swiftmax.h"
