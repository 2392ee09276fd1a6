#include "interleave.h"
#include "vector.h"
