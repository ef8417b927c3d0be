/* Refused by the headers. */
#include "pep788.h"
#include "pep788_v1.h"
