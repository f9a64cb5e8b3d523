/* Causal attention over a KV cache: softmax(q k^T / sqrt(head_size)) v. */

#ifndef GLMTUI_ATTENTION_H
#define GLMTUI_ATTENTION_H

#include "attention_parts.h"

/* Size of the workspace that `attend` needs, in floats */
long attention_workspace_size(const Attention *a, int threads);

/* Computes a->y. workspace: attention_workspace_size floats. */
void attend(const Attention *a, float *workspace, int threads);

#endif
