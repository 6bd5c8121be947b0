/* See stats_sink.h. */
#include "proto/stats_sink.h"

#include <stdarg.h>
#include <stdio.h>

void
stat_sink_init(struct stat_sink *sink, struct output *output,
               bool (*add)(struct stat_sink *, const char *, uint32_t, const char *, uint32_t),
               bool (*end)(struct stat_sink *))
{
    *sink = (struct stat_sink){
        .output = output, .add = add, .end = end, .begin = output->end - output->begin};
}

static bool
add_line(struct stat_sink *sink, const char *name, uint32_t name_len, const char *value,
         uint32_t value_len)
{
    struct output *output = sink->output;
    if (!output_reserve(output, sizeof("STAT  \r\n") + name_len + value_len)) {
        return false;
    }
    OUTPUT_TEXT(output, "STAT ");
    output_add(output, name, name_len);
    OUTPUT_TEXT(output, " ");
    output_add(output, value, value_len);
    OUTPUT_TEXT(output, "\r\n");
    return true;
}

static bool
end_lines(struct stat_sink *sink)
{
    if (!output_reserve(sink->output, sizeof("END\r\n"))) {
        return false;
    }
    OUTPUT_TEXT(sink->output, "END\r\n");
    return true;
}

void
stat_sink_text(struct stat_sink *sink, struct output *output)
{
    stat_sink_init(sink, output, add_line, end_lines);
}

void
stat_add_text(struct stat_sink *sink, const char *name, uint32_t name_len, const char *value,
              uint32_t value_len)
{
    sink->failed = sink->failed || !sink->add(sink, name, name_len, value, value_len);
}

void
stat_add(struct stat_sink *sink, const char *name, const char *format, ...)
{
    char value[SETTING_TEXT_MAX + 16];
    va_list arguments;
    va_start(arguments, format);
    int len = vsnprintf(value, sizeof(value), format, arguments);
    va_end(arguments);
    size_t value_len = (size_t)len < sizeof(value) ? (size_t)len : sizeof(value) - 1;
    stat_add_text(sink, name, (uint32_t)strlen(name), value, (uint32_t)value_len);
}

bool
stat_end(struct stat_sink *sink)
{
    sink->failed = sink->failed || !sink->end(sink);
    if (sink->failed) {
        sink->output->end = sink->output->begin + sink->begin;
    }
    return !sink->failed;
}
