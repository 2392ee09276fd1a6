#include "vector.h"
#include "transpose.h"
