// screen_view placeholder
