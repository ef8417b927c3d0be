/* Refused by the headers. */
#include "pep788_v1.h"
#include "pep788.h"
