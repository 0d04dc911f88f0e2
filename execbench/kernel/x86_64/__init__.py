"""x86_64: TLB flushes by interrupt or broadcast, change_page_attr, text poking."""
